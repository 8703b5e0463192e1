"""The train stage on a real local Ray: two workers, a divergence, and a driver that is killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from components.cluster import ClusterSettings, ray_cluster
from components.config import load_section, read_params
from components.job import Job
from components.tracking import NullTracker
from components.train.config import TrainConfig
from components.train.plan import make_plan
from components.train.work import run
from components.workspace import Workspace
from yolo_core.data.coco import open_dataset
from yolo_core.engine.epoch import TIMINGS
from yolo_core.engine.train import Trainer
from yolo_core.errors import NonFiniteLossError, UsageError
from yolo_core.model.weights import load_checkpoint

QUICK = {
    "image_size": 64,
    "epochs": 2,
    "batch_size": 8,
    "workers": 2,
    "cpus_per_worker": 1,
    "precision": "fp32",
}


class Recorder(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, Any]]] = []
        self.artifacts: list[str] = []

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params.update(params)

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.stat().st_size > 0
        self.artifacts.append(path.name)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_cluster(ClusterSettings(address=None, cpus=2, gpus=0)):
        yield


@pytest.fixture
def workspace(squares: Path, tmp_path: Path) -> Path:
    shutil.copytree(squares, tmp_path / "data" / "dataset")
    return tmp_path


def config_with(repo: Path, **changes: Any) -> TrainConfig:
    params = read_params(repo / "params.yaml")
    params["train"] = {**params["train"], **QUICK, **changes}
    return load_section(params, "train", TrainConfig)


def job_in(root: Path, tracker: NullTracker, variant: str | None = "yolov5n") -> Job:
    workspace = Workspace(root=root, uri=str(root))
    return Job(stage="train", variant=variant, workspace=workspace, tracker=tracker, run_id="test", params={})


def test_two_workers_train_and_leave_every_output(ray_here: None, repo: Path, workspace: Path) -> None:
    tracker = Recorder()
    report = run(config_with(repo), job_in(workspace, tracker))

    assert report["epochs"] == 2 and set(report["test"]) == {"map50", "map"}
    models = workspace / "models" / "yolov5n"
    assert {path.name for path in models.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "train.json",
        "curves.png",
    }
    assert load_checkpoint(models / "best.safetensors").names == ("red", "blue")
    assert json.loads((workspace / "reports" / "train" / "yolov5n.json").read_text()) == report
    assert len((workspace / "reports" / "train" / "yolov5n.csv").read_text().splitlines()) == 3

    per_epoch = [(step, sorted(metrics)) for step, metrics in tracker.metrics if "box_loss" in metrics]
    assert [step for step, _ in per_epoch] == [1, 2]
    assert {"box_loss", "map50", "map", "lr", "images_per_second"} <= set(per_epoch[0][1])
    assert tracker.params["recipe.fliplr"] == 0.0
    wanted = {
        "labels.png",
        "confusion.png",
        "precision_recall.png",
        "predictions.jpg",
        "curves.png",
        "yolov5n.csv",
    }
    wanted |= {f"train_batch_{number}.jpg" for number in (1, 2, 3)}
    assert wanted <= set(tracker.artifacts)
    assert list((workspace / "runs" / "train").iterdir()) == []  # finished: nothing to resume


def test_a_diverging_training_says_so_and_keeps_the_state(
    ray_here: None, repo: Path, workspace: Path
) -> None:
    wild = {"lr0": 1e4, "warmup_bias_lr": 1e4, "warmup_iterations": 0, "warmup_epochs": 0}
    config = config_with(repo, workers=1, epochs=20, overrides=wild)
    with pytest.raises(NonFiniteLossError, match=r"NaN or infinite in epoch \d+ on a batch of .*\.png"):
        run(config, job_in(workspace, Recorder()))
    assert not (workspace / "models").exists()


def test_an_error_of_a_worker_comes_back_as_it_is(ray_here: None, repo: Path, workspace: Path) -> None:
    from yolo_core.errors import DataError

    (workspace / "data" / "dataset" / "images" / "train" / "003.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"003\.png"):
        run(config_with(repo, max_failures=0), job_in(workspace, Recorder()))


@pytest.mark.parametrize(
    ("changes", "variant", "message"),
    [
        ({}, None, "pass --variant"),
        ({}, "yolov5q", "unknown model variant"),
        ({"image_size": 72}, "yolov5n", "multiple of 32"),
        ({"pretrained": "no.pt"}, "yolov5n", "no file"),
    ],
)
def test_wrong_requests_end_before_ray_starts(
    repo: Path, workspace: Path, changes: dict[str, Any], variant: str | None, message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=message):
        run(config_with(repo, **changes), job_in(workspace, Recorder(), variant))
    assert time.monotonic() - began < 5


DRIVER = """
import sys
from pathlib import Path
from components.config import load_section, read_params
from components.job import Job
from components.tracking import NullTracker
from components.train.config import TrainConfig
from components.train.work import run
from components.workspace import Workspace
root = Path(sys.argv[1])
config = load_section(read_params(root / "params.yaml"), "train", TrainConfig)
job = Job(stage="train", variant="yolov5n", workspace=Workspace(root=root, uri=str(root)),
          tracker=NullTracker(), run_id="test", params={})
run(config, job)
"""


def start_driver(root: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(root)], stdout=stream, stderr=stream, env=environment
        )


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.1)


def wait_for_stored_epoch(states: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until a state after the first epoch is stored: that happens behind the training."""
    epoch = 0
    while not epoch:
        assert process.poll() is None
        time.sleep(0.1)
        for path in states.rglob("state-*.json"):
            with suppress(FileNotFoundError):  # a newer state took its place
                epoch = max(epoch, json.loads(path.read_text())["values"]["epoch"])


def test_a_killed_training_is_resumed_to_the_same_bits(repo: Path, workspace: Path, tmp_path: Path) -> None:
    """A state of every batch is kept, and the end is that of an undisturbed training without Ray."""
    import yaml

    params = read_params(repo / "params.yaml")
    params["train"] = {**params["train"], **QUICK, "workers": 1, "epochs": 20, "checkpoint_steps": 1}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))

    log = workspace / "first.log"
    driver = start_driver(workspace, log)
    try:
        wait_for("epoch 2/20", log, driver)
        wait_for_stored_epoch(workspace / "runs" / "train", driver)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    kept = list((workspace / "runs" / "train").iterdir())
    assert len(kept) == 1

    log = workspace / "second.log"
    driver = start_driver(workspace, log)
    assert driver.wait(timeout=240) == 0, log.read_text()[-3000:]
    shown = log.read_text()
    assert "epoch 1/20" not in shown and "epoch 20/20" in shown
    report = json.loads((workspace / "reports" / "train" / "yolov5n.json").read_text())
    assert report["epochs"] == 20
    assert not list((workspace / "runs" / "train").iterdir())
    assert_as_without_ray(workspace, tmp_path / "plain")


def assert_as_without_ray(workspace: Path, folder: Path) -> None:
    """Train the same plan here, in one go, and compare every number and weight."""
    dataset = open_dataset(workspace / "data" / "dataset")
    config = load_section(read_params(workspace / "params.yaml"), "train", TrainConfig)
    torch.set_num_threads(1)
    trainer = Trainer(make_plan(config, "yolov5n", dataset, workspace).settings, dataset, folder)
    list(trainer.epochs())
    with (workspace / "reports" / "train" / "yolov5n.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, wanted in zip(rows, trainer.history, strict=True):
        for key in wanted.keys() - TIMINGS - {"epoch"}:
            assert row[key] == f"{wanted[key]:.6g}", key
    for name in ("best.safetensors", "last.safetensors"):
        assert (workspace / "models" / "yolov5n" / name).read_bytes() == (folder / name).read_bytes()
