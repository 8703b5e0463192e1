from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from components.train.results import (
    make_report,
    measure,
    write_models,
    write_report,
)
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.states import FolderFiles, StateStore
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer

HISTORY = [
    {
        "epoch": float(epoch),
        "box_loss": 0.1 / (epoch + 1),
        "objectness_loss": 0.2,
        "class_loss": 0.3,
        "precision": 0.5,
        "recall": 0.5,
        "map50": 0.2 * quality,
        "map": 0.1 * quality,
        "fitness": 0.11 * quality,
        "lr": 0.01,
        "images_per_second": 100.0 + epoch,
        "seconds": 2.5,
    }
    for epoch, quality in enumerate((1, 3, 2))
]


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.fixture
def plan(make_config: Callable[..., TrainConfig], dataset: DetectionDataset) -> TrainPlan:
    return make_plan(make_config(epochs=1), "yolov5n", dataset, Path())


def test_report_tells_the_best_epoch(plan: TrainPlan, dataset: DetectionDataset) -> None:
    report = make_report(plan, dataset, HISTORY, None)
    assert report["best_epoch"] == 2 and report["epochs"] == 3
    assert (report["map50"], report["seconds"], report["images_per_second"]) == (
        pytest.approx(0.6),
        7.5,
        101.0,
    )
    assert report["dataset_digest"] == dataset.digest
    assert "test" not in report
    metrics = SimpleNamespace(map50=0.5, map=0.3)
    tested = make_report(plan, dataset, HISTORY, SimpleNamespace(metrics=metrics))  # type: ignore[arg-type]
    assert tested["test"] == {"map50": 0.5, "map": 0.3}


def test_a_figure_that_some_epochs_lack_has_its_column(
    plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path
) -> None:
    history = [HISTORY[0], {**HISTORY[1], "gradient_norm": 3.5}]
    write_report(make_report(plan, dataset, history, None), history, tmp_path / "v.json", tmp_path / "v.csv")
    with (tmp_path / "v.csv").open() as file:
        assert [row["gradient_norm"] for row in csv.DictReader(file)] == ["", "3.5"]


def test_report_files(plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path) -> None:
    report = make_report(plan, dataset, HISTORY, None)
    write_report(report, HISTORY, tmp_path / "train" / "v.json", tmp_path / "train" / "v.csv")
    assert json.loads((tmp_path / "train" / "v.json").read_text()) == report
    with (tmp_path / "train" / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["box_loss"]) == pytest.approx(0.1)


def test_models_folder_after_a_real_epoch(plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path) -> None:
    list(Trainer(plan.settings, dataset, tmp_path / "run").epochs())
    states = StateStore(FolderFiles(tmp_path / "run"))
    history = write_models(states, tmp_path / "models", plan)
    assert len(history) == 1
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        BEST_FILE,
        LAST_FILE,
        "train.json",
        "curves.png",
    }
    document = json.loads((tmp_path / "models" / "train.json").read_text())
    assert document["fingerprint"] == plan.fingerprint
    assert document["settings"]["hyperparameters"]["lr0"] > 0
    assert "torch" in document["versions"]
    evaluation = measure(tmp_path / "models" / BEST_FILE, dataset, "val", plan)
    assert 0 <= evaluation.metrics.map50 <= 1
