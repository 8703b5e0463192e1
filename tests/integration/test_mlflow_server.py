"""Tracking through a real MLflow server on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, Tracker, open_run
from tests.integration.mlflow_server import free_port, start_server, stop_server
from yolo_core.errors import UnreachableError


@pytest.fixture(scope="module")
def process_and_address(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    process = start_server(folder, port)
    yield process, f"http://127.0.0.1:{port}"
    stop_server(process)


@pytest.fixture
def server(process_and_address: tuple[subprocess.Popen[bytes], str]) -> str:
    return process_and_address[1]


def identity(stage: str, run_id: str = "r1") -> RunIdentity:
    return RunIdentity(run_id=run_id, stage=stage, variant="yolov5n", orchestrator="airflow")


def open_at(server: str, root: Path, stage: str, run_id: str = "r1") -> Tracker:
    return open_run(TrackingConfig(uri=server, experiment="over-http"), root, identity(stage, run_id))


def test_a_run_with_all_it_can_hold(server: str, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"png")
    with open_at(server, tmp_path, "train") as tracker:
        tracker.log_params({"epochs": 3})
        for epoch in range(3):
            tracker.log_metrics({"loss": 1.0 / (epoch + 1), "map50": epoch / 3}, step=epoch)
        tracker.log_artifact(picture, "plots")
        tracker.log_dataset("digits", "sha256:" + "cd" * 32, "data/dataset", "training")
    with open_at(server, tmp_path, "study") as other:
        assert other.parent_run_id == tracker.parent_run_id
    client: Any = tracker._client
    run = client.get_run(tracker.run_id)
    assert run.info.status == client.get_run(tracker.parent_run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 3
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [entry.path for entry in client.list_artifacts(tracker.run_id, "plots")] == ["plots/curve.png"]
    assert list(tmp_path.iterdir()) == [picture]  # nothing of MLflow's in the workspace


def test_a_parent_that_was_made_twice_becomes_one(server: str, tmp_path: Path) -> None:
    """The loser of a race finds an older parent right after it made its own, and takes it."""
    from components.tracking import runs, tags

    with open_at(server, tmp_path, "train", "raced") as tracker:
        client: Any = tracker._client
    experiment = client.get_run(tracker.run_id).info.experiment_id
    keys = {tags.TAG_RUN: "raced", tags.TAG_ROLE: "pipeline"}

    class Racing:
        """The client as the slower stage sees it: its first search comes too early."""

        searches = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def search_runs(self, *args: Any, **kwargs: Any) -> Any:
            self.searches += 1
            return [] if self.searches == 1 else client.search_runs(*args, **kwargs)

    assert runs.find_or_create(Racing(), experiment, "raced", keys, {}) == tracker.parent_run_id
    assert len(client.search_runs([experiment], f"tags.`{tags.TAG_RUN}` = 'raced'")) == 2  # parent, child


def test_a_server_that_hangs_is_noticed_soon(
    process_and_address: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    process, address = process_and_address
    os.killpg(process.pid, signal.SIGSTOP)  # it accepts connections and says nothing
    try:
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            open_at(address, tmp_path, "train")
        assert time.monotonic() - start < 15
    finally:
        os.killpg(process.pid, signal.SIGCONT)
