from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from components.train import cluster
from components.train.cluster import ClusterSettings, ray_cluster
from yolo_core.errors import UnreachableError


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_no_ray_at_the_address_is_unreachable_soon(prefix: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with (
        pytest.raises(UnreachableError, match=f"no Ray at train.ray_address {address}: .*set null"),
        ray_cluster(ClusterSettings(address=address, cpus=1, gpus=0)),
    ):
        pytest.fail("it connected to nothing")
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("address", ["auto", "local"])
def test_addresses_without_a_port_are_left_to_ray(address: str) -> None:
    cluster.check_answers(address)


def test_temporary_folder_is_short_enough_for_socket_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "a-folder-with-a-long-name" / "and-another-one-below-it"
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(deep))
    made = Path(cluster._short_temp_dir())
    made.rmdir()
    assert len(str(made)) <= 42
