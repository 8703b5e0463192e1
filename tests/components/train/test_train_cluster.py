from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import cluster
from components.cluster import ClusterSettings, ray_cluster
from components.scratch import scratch_folder
from yolo_core.errors import UnreachableError


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_no_ray_at_the_address_is_unreachable_soon(prefix: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with (
        pytest.raises(UnreachableError, match=f"no Ray at ray_address {address}: .*set null"),
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
    with scratch_folder("ray-") as made:
        assert len(str(made)) <= 42
    assert not made.exists()


def test_a_folder_that_a_killed_process_left_is_deleted_and_one_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.scratch._LONGEST", 10**3)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "left-others").mkdir()
    hold = (
        "import sys, tempfile, time; tempfile.tempdir = sys.argv[1]\n"
        "from components import scratch; scratch._LONGEST = 10**3\n"
        "with scratch.scratch_folder('left-') as folder: print(folder, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    left = Path(holder.stdout.readline().strip())
    with scratch_folder("left-"):
        assert left.is_dir()
    holder.kill()
    holder.communicate()
    with scratch_folder("left-") as own:
        assert not left.exists() and sorted(tmp_path.iterdir()) == sorted([own, tmp_path / "left-others"])
