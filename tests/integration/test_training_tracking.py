"""What a training logs survives a server that dies, hangs, or is gone at the end; and comes once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, Tracker, open_run, system, tracker
from components.train.board import Board, Console, Monitor
from components.train.record import EpochRecord
from tests.integration.mlflow_server import free_port, start_server, stop_server
from yolo_core.errors import UnreachableError

EPOCHS = 9


@dataclass
class Server:
    """A server that can be stopped and started again at the same address, over the same database."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        if self.process is None:
            self.process = start_server(self.folder, self.port)

    def stop(self) -> None:
        if self.process is not None:
            stop_server(self.process)
        self.process = None

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(tracker, "_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(system, "_SAMPLE_SECONDS", 1e9)  # the tests count entries
    one_server.start()
    return one_server


def open_at(server: Server, root: Path, stage: str = "train", *, lasting: bool = True) -> Tracker:
    identity = RunIdentity(run_id=root.name, stage=stage, variant="yolov5n", orchestrator="dvc")
    return open_run(TrackingConfig(uri=server.address, experiment="train"), root, identity, lasting=lasting)


def row(epoch: int, loss: float = 1.0) -> dict[str, float]:
    names = ("objectness_loss", "class_loss", "map50", "map", "images_per_second", "data_wait_share")
    return {"epoch": float(epoch), "box_loss": loss, "seconds": 1.0, **dict.fromkeys(names, 0.5)}


def watch(board: Board, record: EpochRecord) -> Monitor:
    return Monitor(board.read, Console("t", EPOCHS), record.log, record.tend)


def logged(tracker: Tracker) -> list[Any]:
    history: list[Any] = tracker._client.get_metric_history(tracker.run_id, "box_loss")
    return history


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_server_that_dies_twice_loses_nothing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes back while the training runs; then it is down at the end, and the next stage sends the rest.

    All that can be logged is, while it is down.
    """
    picture = tmp_path / "curves.png"
    picture.write_bytes(b"png")
    board = Board()
    with open_at(server, tmp_path) as train:
        record = EpochRecord(train, "print")
        with watch(board, record) as monitor:
            board.post_row(row(0))
            wait_for(lambda: len(logged(train)) == 1)
            server.stop()
            board.post_row(row(1))
            board.post_row(row(2))
            wait_for(lambda: train.unsent == 2)
            down = time.time()
            server.start()
            wait_for(lambda: train.unsent == 0)
            assert [metric.step for metric in logged(train)] == [1, 2, 3]
            assert all(metric.timestamp < down * 1000 for metric in logged(train))  # when, not when sent
            server.stop()
            board.post_row(row(3))
            began = time.monotonic()
            monitor.finish()
        train.log_artifact(picture)
        picture.unlink()
        train.log_params({"epochs": 4})
        train.set_tags({"colour": "red"})
        train.log_dataset("digits", "sha256:" + "ab" * 32, "data", "training")
    assert time.monotonic() - began < 10
    told = capsys.readouterr().err
    unsent = "1 x metrics, 1 x artifact, 1 x params, 1 x tags, 1 x dataset, 1 x dataset tag, 1 x status"
    assert f"does not answer; not sent: {unsent}; kept in" in told
    assert str(tmp_path / "runs" / "unsent" / train.run_id) in told

    with pytest.raises(UnreachableError):
        open_at(server, tmp_path, "study")
    server.start()
    with open_at(server, tmp_path, "study") as study:
        assert study.parent_run_id == train.parent_run_id
    assert not (tmp_path / "runs" / "unsent" / train.run_id).exists()
    assert [metric.step for metric in logged(train)] == [1, 2, 3, 4]
    client: Any = train._client
    run, parent = client.get_run(train.run_id), client.get_run(train.parent_run_id)
    assert run.info.status == parent.info.status == "FINISHED"
    assert (run.data.params["epochs"], run.data.tags["colour"]) == ("4", "red")
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"
    assert parent.data.tags["dataset.digest"] == "sha256:" + "ab" * 32
    assert [entry.path for entry in client.list_artifacts(train.run_id)] == ["curves.png"]


def test_a_server_that_hangs_does_not_hold_up_the_end(server: Server, tmp_path: Path) -> None:
    board = Board()
    with open_at(server, tmp_path) as train:
        with watch(board, EpochRecord(train, "print")) as monitor:
            server.signal(signal.SIGSTOP)  # it accepts connections and says nothing
            try:
                board.post_row(row(0))
                began = time.monotonic()
                monitor.finish()
                train.log_metrics({"best.map": 0.5})
                train.finish("FINISHED")
                assert time.monotonic() - began < 30
                assert train.unsent == 3
            finally:
                server.signal(signal.SIGCONT)
        train._retry_at = 0.0
    assert train.unsent == 0
    assert [metric.step for metric in logged(train)] == [1]


def test_an_epoch_is_logged_once_however_often_it_is_given(server: Server, tmp_path: Path) -> None:
    train = open_at(server, tmp_path)
    record = EpochRecord(train, "print")
    for epoch in (0, 1, 2):
        record.log(row(epoch))
    record.log(row(2))  # trained again after a worker died
    again = open_at(server, tmp_path)  # a new driver after the old one was killed
    assert again.run_id == train.run_id
    resumed = EpochRecord(again, "print")
    for epoch in range(5):  # what the state remembers, and what is trained now
        resumed.log(row(epoch))
    assert [metric.step for metric in logged(train)] == [1, 2, 3, 4, 5]
    other = EpochRecord(again, "another plan in the same run")
    other.log(row(0, loss=2.0))
    assert [metric.value for metric in logged(train) if metric.step == 1] == [1.0, 2.0]


def test_the_machine_is_watched_as_mlflows_page_expects(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "_SAMPLE_SECONDS", 0.0)
    train = open_at(server, tmp_path)
    watched = system.SystemMetrics(train)
    for _ in range(6):
        watched.sample()
    client: Any = train._client
    found = client.get_run(train.run_id).data.metrics
    assert 0 <= found["system/cpu_utilization_percentage"] <= 100
    assert found["system/system_memory_usage_megabytes"] > 100
    assert len(client.get_metric_history(train.run_id, "system/disk_usage_percentage")) == 2


def test_a_batch_of_metrics_comes_once_though_its_answer_was_lost(server: Server, tmp_path: Path) -> None:
    from components.tracking.delivery import deliver
    from components.tracking.outbox import Entry

    train = open_at(server, tmp_path)
    entry = Entry(kind="metrics", values={"metrics": {"box_loss": 0.25}, "step": 3})
    for _ in range(2):
        deliver(train._client, train.run_id, entry, None)
    assert [(metric.step, metric.value) for metric in logged(train)] == [(3, 0.25)]


def test_a_workspace_that_does_not_last_insists_on_the_server(server: Server, tmp_path: Path) -> None:
    with (
        pytest.raises(UnreachableError, match=r"not sent: 1 x metrics, 1 x status; run the stage again"),
        open_at(server, tmp_path, lasting=False) as train,
    ):
        server.stop()
        train.log_metrics({"box_loss": 1.0}, step=1)
