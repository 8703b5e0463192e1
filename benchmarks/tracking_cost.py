"""What logging costs a training, as a share of its time.

Run ``python benchmarks/tracking_cost.py``. An epoch of yolov5n on COCO128 at 320 px is trained in this
process as as a worker does it, with a real board on a local Ray; its calls that only serve to tell are
timed. Then the driver's work per epoch is timed, with an MLflow server on loopback and with a SQLite file:
a row, and the machine's own figures. An epoch this short is the dear case: what is logged per epoch does
not grow with it.

Only the worker's calls delay the training; the driver is another process and works meanwhile, so of it the
processor time counts, where it shares the processor. A server's own work is not counted.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import ray
from coco128 import write_coco128
from timing import progress, set_threads

from components.cluster import ClusterSettings, ray_cluster
from components.store import TrackingConfig
from components.tracking import RunIdentity, open_run
from components.tracking.system import SystemMetrics
from components.train.board import Board
from components.train.loop import _step_poster
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.epoch import NORM_EVERY, Hooks, StepProgress
from yolo_core.engine.optimizer import clip_gradients
from yolo_core.engine.recipe import get_preset
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import Trainer
from yolo_core.model.graph import create_model

EPOCHS, SIZE, BATCH = 4, 320, 16
ROUNDS = 30
SYSTEM_EVERY = 30.0  # seconds between two logs of the machine's figures, each of three measurements


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds by the wall clock, and of processor time of this process."""

    wall: float
    cpu: float

    def times(self, count: float) -> Cost:
        """Return the cost of so many."""
        return Cost(wall=self.wall * count, cpu=self.cpu * count)

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(wall=self.wall + other.wall, cpu=self.cpu + other.cpu)


def measure(call: Callable[[], object], rounds: int = ROUNDS) -> Cost:
    """Return the median cost of a call."""
    costs = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        costs.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*costs, strict=True)
    return Cost(wall=statistics.median(walls), cpu=statistics.median(cpus))


def train(dataset: DetectionDataset, board: Any, folder: Path) -> tuple[dict[str, float], Cost]:
    """Train; return the last epoch's row with its processor time, and what its calls for the board cost."""
    settings = TrainSettings(
        variant="yolov5n",
        image_size=SIZE,
        epochs=EPOCHS,
        batch_size=BATCH,
        hyperparameters=get_preset("v6.0-scratch"),
    )
    post, spent = _step_poster(board, lambda: None), [0.0, 0.0]

    def told(call: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        call()
        spent[0] += time.perf_counter() - wall
        spent[1] += time.thread_time() - cpu

    def each_step(step: StepProgress) -> None:
        told(lambda: post(step))

    before = time.process_time()
    for result in Trainer(settings, dataset, folder).epochs(Hooks(progress=each_step)):
        row = {**result.metrics, "cpu": time.process_time() - before}
        if result.epoch < EPOCHS - 1:
            spent[:] = 0.0, 0.0
        told(lambda row=row: board.post_row.remote(row))
        before = time.process_time()
        progress(f"epoch {result.epoch + 1} of {EPOCHS}")
    return row, Cost(wall=spent[0], cpu=spent[1])


def norm_cost(steps: int) -> Cost:
    """Return what an epoch's measurements of the gradients' norm cost."""
    model = create_model("yolov5n").train()
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    return measure(lambda: clip_gradients(model, 0.0).item()).times(-(-steps // NORM_EVERY))


def driver_cost(uri: str, root: Path, row: dict[str, float]) -> tuple[Cost, Cost]:
    """Return what a row costs the driver, and what the machine's figures do each `SYSTEM_EVERY` seconds."""
    root.mkdir()
    me = RunIdentity(run_id="cost", stage="train", variant="yolov5n", orchestrator="cli")
    with open_run(TrackingConfig(uri=uri, experiment="cost"), root, me) as tracker:
        steps = iter(range(1, 1000))
        tracker.log_metrics(row, step=0)
        per_row = measure(lambda: tracker.log_metrics(row, step=next(steps)))
        system = SystemMetrics(tracker)

        def sample_three() -> None:
            for _ in range(3):
                system._next = 0.0
                system.sample()

        sample_three()
        return per_row, measure(sample_three)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Start a server with one worker on loopback; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                urlopen(f"{address}/health", timeout=2).close()
                break
            except (URLError, OSError):
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def show(name: str, cost: Cost, row: dict[str, float]) -> None:
    """Print what something costs per epoch, and its share of the epoch."""
    shares = cost.wall / row["seconds"], cost.cpu / row["cpu"]
    wall, cpu = (f"{seconds * 1000:8.2f} ms" for seconds in (cost.wall, cost.cpu))
    print(f"  {name:42} {wall} {shares[0]:8.3%}    cpu {cpu} {shares[1]:8.3%}")


def main() -> None:
    """Measure and print."""
    set_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        dataset = write_coco128(root / "coco128")
        with ray_cluster(ClusterSettings(address=None, cpus=1, gpus=0)):
            board = ray.remote(num_cpus=0)(Board).remote()
            row, posts = train(dataset, board, root / "states")
        steps = -(-len(dataset.samples("train")) // BATCH)
        norms = norm_cost(steps)
        print(
            f"an epoch of {steps} steps: {row['seconds']:.2f} s, {row['cpu']:.2f} s of processor time; of it"
        )
        show("worker: posts to the board", posts, row)
        show("worker: norms of the gradients", norms, row)
        with mlflow_server(root) as address:
            for kind, uri in (("server", address), ("SQLite", f"sqlite:///{root}/own/mlflow.db")):
                folder = root / ("own" if kind == "SQLite" else "remote")
                per_row, machine = driver_cost(uri, folder, row)
                driver = per_row + machine.times(row["seconds"] / SYSTEM_EVERY)
                show(f"driver, {kind}: a row", per_row, row)
                show(f"driver, {kind}: row and machine's figures", driver, row)
                delay, work = posts + norms, posts + norms + driver
                shares = delay.wall / row["seconds"], work.cpu / row["cpu"]
                print(f"  {kind}: {shares[0]:.2%} of the time, {shares[1]:.2%} of the work")


if __name__ == "__main__":
    main()
