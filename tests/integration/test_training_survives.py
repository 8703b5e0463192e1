"""Trainings that lose a worker, Ray's controller, MLflow, the place of their states, the driver, the machine.

Each is a real command with real workers, an MLflow server, and real kills. All end with the very bits of a
training that nothing happened to, and with one MLflow run that has each epoch once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from components.config import read_params
from tests.integration.mlflow_server import free_port, start_server, stop_server
from yolo_core.data.quarantine import write_quarantine

EPOCHS = 30
"""Some last a tenth of a second, and the training must not end before it is disturbed."""
RECOVERY_SECONDS = 30
"""From the death of a worker until training goes on, beside the lost part of an epoch, on an idle machine."""
QUICK = {
    "image_size": 64,
    "epochs": EPOCHS,
    "batch_size": 8,
    "workers": 2,
    "cpus_per_worker": 1,
    "precision": "fp32",
    "checkpoint_steps": 1,
    "max_failures": 3,
}


class Server:
    """An MLflow server that can be away for a while."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._process = start_server(self._folder, self._port)

    def stop(self) -> None:
        stop_server(self._process)

    def run(self, run_id: str) -> Any:
        """Return the one run of the train stage of a pipeline run."""
        from mlflow import MlflowClient

        client = MlflowClient(self.uri)
        experiments = [each.experiment_id for each in client.search_experiments()]
        query = f"tags.`pipeline.run_id` = '{run_id}' and tags.`pipeline.stage` = 'train'"
        (run,) = client.search_runs(experiments, query)
        return run

    def steps(self, run: Any, metric: str) -> list[int]:
        """Return the steps of a metric's whole history, repeats included."""
        from mlflow import MlflowClient

        return sorted(
            each.step for each in MlflowClient(self.uri).get_metric_history(run.info.run_id, metric)
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow"))
    yield running
    running.stop()


@dataclass
class Training:
    """A workspace in which one training runs, by one command after the other."""

    root: Path
    environment: dict[str, str]
    run_id: str
    process: subprocess.Popen[bytes] = field(init=False)
    _logs: list[Path] = field(default_factory=list)

    @property
    def states(self) -> Path:
        return self.root / "runs" / "train"

    @property
    def shown(self) -> str:
        """What the latest command has said so far."""
        return self._logs[-1].read_text()

    @property
    def epoch(self) -> int:
        """Latest epoch that the latest command has finished; 0 before that."""
        return max((int(number) for number in re.findall(r"epoch (\d+)/", self.shown)), default=0)

    def start(self) -> None:
        self._logs.append(self.root / f"command-{len(self._logs)}.log")
        command = ["-m", "components", "train", "--variant", "yolov5n", "--run-id", self.run_id]
        places = ["--workspace", str(self.root), "--params", str(self.root / "params.yaml")]
        with self._logs[-1].open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, *places], stdout=log, stderr=log, env=self.environment
            )

    def wait_for(self, what: Callable[[], object], seconds: float = 600) -> None:
        """Wait until something is so, while the command runs."""
        end = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None and time.monotonic() < end, self.shown[-3000:]
            time.sleep(0.05)

    def wait_for_epoch(self, number: int) -> None:
        self.wait_for(lambda: self.epoch >= number)

    def wait_for_batch(self) -> None:
        """Wait until another batch of an epoch is stored: so the next thing happens in the middle of one."""
        before = {path.name for path in self.states.rglob("state-*.json")}
        self.wait_for(lambda: {path.name for path in self.states.rglob("state-*.json")} - before)

    def members(self, title: str) -> list[psutil.Process]:
        """Return the processes of its Ray with such a title, the oldest first."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue  # ended meanwhile
        return sorted(found, key=lambda process: process.create_time())

    def end(self, seconds: float = 600) -> int:
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.shown[-3000:]) from None

    def weights(self) -> list[bytes]:
        models = self.root / "models" / "yolov5n"
        return [(models / name).read_bytes() for name in ("best.safetensors", "last.safetensors")]


@pytest.fixture(scope="module")
def begin(
    squares: Path, repo: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Training]]:
    begun: list[Training] = []

    def make(name: str) -> Training:
        root = tmp_path_factory.mktemp(name)
        shutil.copytree(squares, root / "data" / "dataset")
        write_quarantine(root / "data" / "dataset", "", {})
        params = read_params(repo / "params.yaml")
        params["train"] = {**params["train"], **QUICK}
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        scratch = Path("/tmp") / f"{name}-{os.getpid()}"
        scratch.mkdir()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": server.uri,
            "TMPDIR": str(scratch),
        }
        begun.append(Training(root, environment, run_id=name))
        begun[-1].start()
        return begun[-1]

    yield make
    for training in begun:
        training.process.kill()
        training.process.wait()
        shutil.rmtree(training.environment["TMPDIR"])


@pytest.fixture(scope="module")
def undisturbed(begin: Callable[[str], Training]) -> list[bytes]:
    """The weights of a training that nothing happened to."""
    training = begin("undisturbed")
    assert training.end() == 0, training.shown[-3000:]
    return training.weights()


def assert_whole(training: Training, server: Server, undisturbed: list[bytes]) -> None:
    """The same bits, each epoch logged once to the one run, no state and no temporary file left."""
    assert training.weights() == undisturbed
    run = server.run(training.run_id)
    assert run.info.status == "FINISHED"
    for metric in ("map", "box_loss", "seconds"):
        assert server.steps(run, metric) == list(range(1, EPOCHS + 1)), metric
    assert not [path for path in training.states.rglob("*") if path.is_file()]
    left = {path.name for path in Path(training.environment["TMPDIR"]).iterdir()}
    assert {
        name for name in left if not name.startswith("torchinductor")
    } == set()  # torch's one cache folder


def test_worker_controller_tracking_server_and_storage_are_lost(
    begin: Callable[[str], Training],
    server: Server,
    undisturbed: list[bytes],
    record_property: Callable[[str, object], None],
) -> None:
    """One after another in one training, which the one command brings to its end."""
    training = begin("disturbed")
    training.wait_for_epoch(2)
    training.wait_for_batch()
    seconds = kill_worker(training)
    busy = max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    record_property("recovery_seconds", f"{seconds:.1f}")
    sys.stderr.write(f"recovered from a killed worker in {seconds:.1f} s; load per core {busy:.1f}\n")
    assert seconds < RECOVERY_SECONDS * busy

    training.wait_for_epoch(4)
    training.wait_for_batch()
    training.members("TrainController")[0].kill()
    training.wait_for(lambda: "controller died" in training.shown)

    training.wait_for_epoch(6)
    workers = training.members("RayTrainWorker")
    with paused(workers):  # epochs are short beside the end and the start of a server
        server.stop()
    training.wait_for_epoch(training.epoch + 2)
    with paused(workers):
        server.start()
        training.wait_for(lambda: "MLflow answers again" in training.shown)

    away = training.states.with_name("away")
    training.states.rename(away)
    training.states.write_text("no folder")  # whoever may write anywhere cannot write below a file
    training.wait_for(lambda: "cannot be stored" in training.shown)
    training.states.unlink()
    away.rename(training.states)
    training.wait_for(lambda: "is stored in" in training.shown)
    assert training.end() == 0, training.shown[-3000:]
    assert_whole(training, server, undisturbed)


@contextmanager
def paused(processes: list[psutil.Process]) -> Iterator[None]:
    """Let processes stand still for a while."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def kill_worker(training: Training) -> float:
    """Kill a worker; returns the seconds until its successors stored a state."""

    def writers() -> set[str]:  # the last part of a state's name is of the process that wrote it
        return {path.stem.rpartition("-")[2] for path in training.states.rglob("state-*.json")}

    victims = training.members("RayTrainWorker")
    assert len(victims) == 2
    known = writers()
    victims[1].kill()
    began = time.monotonic()
    training.wait_for(lambda: writers() - known)
    return time.monotonic() - began


def test_driver_is_killed_and_machines_are_taken_away(
    begin: Callable[[str], Training], server: Server, undisturbed: list[bytes]
) -> None:
    """The same command goes on after SIGKILL, after SIGTERM, and after SIGTERM to one worker, mid-epoch."""
    training = begin("interrupted")
    training.wait_for_epoch(2)
    training.wait_for_batch()
    orphans = training.members("")
    training.process.send_signal(signal.SIGKILL)
    assert training.end() == -signal.SIGKILL
    for epoch, victim in ((5, None), (8, "RayTrainWorker")):
        training.start()
        training.wait_for_epoch(epoch)
        process = training.members(victim)[-1] if victim else psutil.Process(training.process.pid)
        process.send_signal(signal.SIGTERM)
        assert training.end() == 128 + signal.SIGTERM, training.shown[-3000:]
        assert "goes on from the state" in training.shown
        assert server.run(training.run_id).info.status == "KILLED"

    training.start()
    assert training.end() == 0, training.shown[-3000:]
    assert_whole(training, server, undisturbed)
    _, alive = psutil.wait_procs(orphans, timeout=120)  # its agents look for their Ray for a minute
    assert not alive, "the killed driver's Ray is still there"
