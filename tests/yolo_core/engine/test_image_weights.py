from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolo_core.data.augment import NO_AUGMENTATION
from yolo_core.data.coco import DetectionDataset, Sample, open_dataset
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.engine.epoch import Hooks
from yolo_core.engine.image_weights import class_maps, image_weights
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import Trainer
from yolo_core.metrics.average_precision import DetectionMetrics


def with_classes(sample: Sample, classes: list[int]) -> Sample:
    count = len(classes)
    return replace(
        sample,
        boxes=np.tile(np.array([[8, 8, 40, 40]], np.float32), (count, 1)).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        crowd=np.zeros(count, bool),
        polygons=(None,) * count,
    )


@pytest.fixture
def samples(squares: Path) -> list[Sample]:
    """Eight real images: class 0 in seven of them, class 1 in one, class 2 in none."""
    found = open_dataset(squares).samples("train")[:8]
    classes = [[0], [0, 0], [0], [0], [0, 1], [0], [0], []]
    return [with_classes(sample, own) for sample, own in zip(found, classes, strict=True)]


def test_weights_are_the_summed_errors_over_the_classes_counts(samples: list[Sample]) -> None:
    weights = image_weights(samples, [0.5, 0.2, 0.0])
    assert weights is not None
    common, rare = 0.25 / 8, 0.64 / 1
    np.testing.assert_allclose(
        weights, [common, 2 * common, common, common, common + rare, common, common, 0.0]
    )


def test_before_the_first_validation_every_class_comes_equally_often(samples: list[Sample]) -> None:
    weights = image_weights(samples, [0.0, 0.0, 0.0])
    assert weights is not None
    boxes = np.array([[np.count_nonzero(sample.classes == c) for c in (0, 1)] for sample in samples])
    expected = (weights[:, None] * boxes / np.maximum(boxes.sum(1, keepdims=True), 1)).sum(0)
    assert weights.sum() == pytest.approx(2)
    assert expected[1] == pytest.approx(weights[4] / 2)


def test_perfect_classes_or_no_boxes_leave_the_order_alone(samples: list[Sample]) -> None:
    assert image_weights(samples, [1.0, 1.0, 1.0]) is None
    assert image_weights([with_classes(samples[0], [])], [0.0, 0.0, 0.0]) is None


def test_a_class_without_truth_counts_as_the_mean() -> None:
    ap = np.zeros((2, 10))
    ap[0], ap[1] = 0.4, 0.8
    curve = np.zeros((2, 1000))
    metrics = DetectionMetrics(
        classes=np.array([0, 2]),
        instances=np.array([5, 5]),
        ap=ap,
        precision_curve=curve,
        recall_curve=curve,
        pr_curve=np.zeros((2, 101)),
    )
    assert class_maps(metrics, 3) == pytest.approx([0.4, 0.6, 0.8])


def test_rare_classes_come_more_often_in_mosaics_too(samples: list[Sample]) -> None:
    settings = TrainLoaderSettings(
        image_size=64, batch_size=8, augmentation=replace(NO_AUGMENTATION, mosaic=1.0)
    )
    loader = TrainLoader(samples, settings)

    def boxes(weights: np.ndarray | None) -> Counter[int]:
        found: Counter[int] = Counter()
        for epoch in range(25):
            loader.set_epoch(epoch, image_weights=weights)
            for batch in loader:
                found.update(batch.targets[:, 1].int().tolist())
        return found

    usual, weighted = boxes(None), boxes(image_weights(samples, [0.0, 0.0, 0.0]))
    assert usual[1] < 0.25 * usual[0]
    # Image 4 is drawn for 56 % of all tiles; for the first of four only, the ratio would stay near a quarter.
    assert weighted[1] > 0.42 * weighted[0]


def test_a_training_draws_by_the_errors_of_the_last_validation(squares: Path, tmp_path: Path) -> None:
    dataset: DetectionDataset = open_dataset(squares)
    recipe = Hyperparameters().with_overrides({"nominal_batch": 8, "warmup_iterations": 0})
    settings = TrainSettings(
        variant="yolov5n",
        image_size=32,
        epochs=2,
        batch_size=8,
        hyperparameters=recipe,
        image_weights=True,
        precision="fp32",
    )
    trainer = Trainer(settings, dataset, tmp_path)
    seen: list[np.ndarray | None] = []
    usual = trainer._loader.set_epoch

    def look(*args: int, **options: object) -> None:
        seen.append(options["image_weights"])  # type: ignore[arg-type]
        usual(*args, **options)  # type: ignore[arg-type]

    trainer._loader.set_epoch = look  # type: ignore[method-assign]
    epochs = trainer.epochs(Hooks())
    next(epochs)
    trainer._class_maps = [0.9, 0.1]
    next(epochs)
    train = dataset.samples("train")
    for found, maps in zip(seen, ([0.0, 0.0], [0.9, 0.1]), strict=True):
        np.testing.assert_array_equal(found, image_weights(train, maps))
