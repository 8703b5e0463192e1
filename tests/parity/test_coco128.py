"""The release's own weights on COCO128 score what the release measured (spec, "Official checkpoints")."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolo_core.data.coco import ClassTable, DetectionDataset, SourceImage, write_dataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.model.weights import load_checkpoint


@pytest.fixture(scope="module")
def dataset(
    coco128: tuple[list[SourceImage], ClassTable], tmp_path_factory: pytest.TempPathFactory
) -> DetectionDataset:
    images, classes = coco128
    target = tmp_path_factory.mktemp("coco128") / "dataset"
    return write_dataset(target, {"train": images}, classes, name="coco128", source="COCO128")


@pytest.fixture(scope="module")
def evaluation(assets: Path, dataset: DetectionDataset) -> Evaluation:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
        return evaluate(model, dataset, "train", EvalSettings(image_size=640))
    finally:
        torch.set_num_threads(threads)


def test_the_data_is_what_was_measured(dataset: DetectionDataset) -> None:
    assert (dataset.splits["train"].images, dataset.splits["train"].boxes) == (128, 929)


def test_built_in_map(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    assert metrics.map50 == pytest.approx(0.5478, abs=0.003)
    assert metrics.map == pytest.approx(0.3483, abs=0.003)
    assert len(metrics.classes) == 71


def test_precision_and_recall(evaluation: Evaluation) -> None:
    assert evaluation.metrics.precision == pytest.approx(0.6577, abs=0.003)
    assert evaluation.metrics.recall == pytest.approx(0.4785, abs=0.003)


def test_number_of_detections(evaluation: Evaluation, dataset: DetectionDataset) -> None:
    assert len(evaluation.detections) == pytest.approx(29_361, rel=0.002)
    assert {row["category_id"] for row in evaluation.detections} <= set(dataset.category_ids)


def test_the_official_coco_evaluation_runs_about_a_point_higher(evaluation: Evaluation) -> None:
    coco = evaluation.coco()
    assert 0.005 < coco.ap - evaluation.metrics.map < 0.015
    assert 0.005 < coco.ap50 - evaluation.metrics.map50 < 0.015


def test_most_confident_detections_are_of_the_right_class(evaluation: Evaluation) -> None:
    matrix = evaluation.confusion.matrix
    assert matrix[:, :80].sum() == 929
    paired = matrix[:80, :80]
    assert paired.trace() > 0.85 * paired.sum()
