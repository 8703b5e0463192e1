from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from components.plots import plot_confusion
from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from components.train.plots import plot_curves, plot_labels
from components.train.results import (
    draw_confusion,
    draw_data,
    make_report,
    measure,
    write_models,
    write_report,
)
from yolo_core.data.coco import DetectionDataset, open_dataset
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


def size_of(path: Path) -> tuple[int, ...]:
    image = cv2.imread(str(path))
    assert image is not None and image.std() > 0, f"{path} shows nothing"
    return image.shape


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
    history = write_models(tmp_path / "run", tmp_path / "models", plan)
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
    size_of(draw_confusion(evaluation, dataset.names, tmp_path))


def test_pictures_of_the_data(plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path) -> None:
    for picture in draw_data(plan, dataset, tmp_path):
        size_of(picture)


@pytest.mark.parametrize("epochs", [1, 3, 60])
def test_curves_of_short_and_long_runs(tmp_path: Path, epochs: int) -> None:
    history = [{**HISTORY[0], "epoch": float(epoch)} for epoch in range(epochs)]
    plot_curves(history, tmp_path / "curves.png")
    assert size_of(tmp_path / "curves.png") == (700, 1300, 3)


def test_labels_of_many_classes_are_drawn(dataset: DetectionDataset, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(80)]
    plot_labels(dataset.samples("train"), names, tmp_path / "labels.png")
    size_of(tmp_path / "labels.png")


@pytest.mark.parametrize("classes", [2, 80])
def test_confusion_of_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    matrix = np.eye(classes + 1, dtype=np.int64) * 5
    plot_confusion(matrix, [f"c{index}" for index in range(classes)], tmp_path / "confusion.png")
    size_of(tmp_path / "confusion.png")
