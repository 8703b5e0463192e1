from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.plots import plot_confusion
from components.train.config import TrainConfig
from components.train.pictures import draw_data, draw_predictions, draw_quality
from components.train.plan import make_plan
from components.train.plots import plot_curves, plot_labels
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.preview import class_colour
from yolo_core.engine.clock import PHASES
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.model.graph import create_model

ROW = {
    "box_loss": 0.1,
    "objectness_loss": 0.2,
    "class_loss": 0.3,
    "precision": 0.5,
    "recall": 0.5,
    "map50": 0.2,
    "map": 0.1,
    "lr": 0.01,
    "lr_bias": 0.1,
    "images_per_second": 100.0,
    "memory_mb": 900.0,
    **{f"{phase}_share": 1 / len(PHASES) for phase in PHASES},
}


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.fixture
def evaluation(dataset: DetectionDataset) -> Evaluation:
    return evaluate(create_model("yolov5n", 2).eval(), dataset, "val", EvalSettings(image_size=64))


def size_of(path: Path) -> tuple[int, ...]:
    image = cv2.imread(str(path))
    assert image is not None and image.std() > 0, f"{path} shows nothing"
    return image.shape


def test_the_data_are_shown_by_labels_and_three_batches(
    make_config: Callable[..., TrainConfig], dataset: DetectionDataset, tmp_path: Path
) -> None:
    plan = make_plan(make_config(batch_size=8), "yolov5n", dataset, Path())
    drawn = draw_data(plan, dataset, tmp_path)
    assert [path.stem for path in drawn] == ["labels", "train_batch_1", "train_batch_2", "train_batch_3"]
    for path in drawn:
        size_of(path)
    first, second = (cv2.imread(str(path)).astype(int) for path in drawn[1:3])
    assert first.shape == (2 * 324 + 4, 4 * 324 + 4, 3)  # pictures of 64 px are shown large
    assert np.abs(first - second).mean() > 3  # and each batch is another


def test_quality_is_shown_by_three_pictures(evaluation: Evaluation, tmp_path: Path) -> None:
    drawn = draw_quality(evaluation, tmp_path)
    assert [path.name for path in drawn] == ["confusion.png", "precision_recall.png", "predictions.jpg"]
    for path in drawn:
        size_of(path)


def test_truth_stands_on_the_left_and_detections_on_the_right(
    evaluation: Evaluation, dataset: DetectionDataset, tmp_path: Path
) -> None:
    """A detection that is nowhere near a truth shows on the right alone, and only when it is sure."""

    def halves(score: float) -> tuple[np.ndarray, np.ndarray]:
        row = np.array([[2.0, 2.0, 10.0, 10.0, score, 1.0]], np.float32)
        rows = {sample.image_id: row for sample in dataset.samples("val")}
        draw_predictions(replace(evaluation, rows=rows), tmp_path / "sheet.png")
        tile = cv2.imread(str(tmp_path / "sheet.png"))[8 + 24 : 8 + 24 + 400, 8 : 8 + 804].astype(int)
        return tile[:, :400], tile[:, 404:]

    (left, found), (same_left, nothing) = halves(0.9), halves(0.1)
    np.testing.assert_array_equal(left, same_left)
    assert tuple(found[30, 12]) == class_colour(1)  # 64 px of image are shown on 400
    changed = (found != nothing).any(axis=2)
    assert changed[10:90, 10:90].any() and not changed[100:].any() and not changed[:, 130:].any()
    assert (left != nothing).any(axis=2).sum() > 200  # the truth's boxes


def test_samples_are_spread_over_a_large_split(
    evaluation: Evaluation, dataset: DetectionDataset, tmp_path: Path
) -> None:
    draw_predictions(evaluation, tmp_path / "sheet.png")  # eight images
    assert size_of(tmp_path / "sheet.png") == (4 * (424 + 8) + 8, 2 * (804 + 8) + 8, 3)


@pytest.mark.parametrize("epochs", [1, 3, 60])
def test_curves_of_short_and_long_runs(tmp_path: Path, epochs: int) -> None:
    history = [{**ROW, "epoch": float(epoch)} for epoch in range(epochs)]  # no norms, no GPU
    plot_curves(history, tmp_path / "curves.png")
    assert size_of(tmp_path / "curves.png") == (700, 1600, 3)


def test_labels_of_many_classes_are_drawn(dataset: DetectionDataset, tmp_path: Path) -> None:
    names = [f"class {index}" for index in range(80)]
    plot_labels(dataset.samples("train"), names, tmp_path / "labels.png")
    size_of(tmp_path / "labels.png")


@pytest.mark.parametrize("classes", [2, 80])
def test_confusion_of_few_and_many_classes(tmp_path: Path, classes: int) -> None:
    matrix = np.eye(classes + 1, dtype=np.int64) * 5
    plot_confusion(matrix, [f"c{index}" for index in range(classes)], tmp_path / "confusion.png")
    size_of(tmp_path / "confusion.png")
