"""The release's own weights on COCO128 score what the release measured (spec, "Official checkpoints")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from yolo_core.data.coco import (
    DetectionDataset,
    SourceBox,
    SourceImage,
    class_table,
    read_image,
    write_dataset,
)
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.model.weights import load_checkpoint

# COCO's ids of its 80 classes leave these numbers out.
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
CATEGORY_IDS = [number for number in range(1, 91) if number not in GAPS]


def read_images(root: Path) -> Iterator[SourceImage]:
    for path in sorted((root / "images/train2017").glob("*.jpg")):
        height, width = read_image(path).shape[:2]
        label = root / "labels/train2017" / f"{path.stem}.txt"
        boxes = []
        for line in label.read_text().splitlines() if label.exists() else ():
            category, x, y, w, h = (float(word) for word in line.split())
            corner = ((x - w / 2) * width, (y - h / 2) * height)
            boxes.append(SourceBox(class_index=int(category), box=(*corner, w * width, h * height)))
        yield SourceImage(file_name=path.name, content=path, boxes=boxes)


@pytest.fixture(scope="module")
def coco128(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    source = assets / "coco128_yolo"
    names = yaml.safe_load((source / "data.yaml").read_text())["names"]
    target = tmp_path_factory.mktemp("coco128") / "dataset"
    classes = class_table(names, CATEGORY_IDS)
    return write_dataset(target, {"train": read_images(source)}, classes, name="coco128", source="COCO128")


@pytest.fixture(scope="module")
def evaluation(assets: Path, coco128: DetectionDataset) -> Evaluation:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
        return evaluate(model, coco128, "train", EvalSettings(image_size=640))
    finally:
        torch.set_num_threads(threads)


def test_the_data_is_what_was_measured(coco128: DetectionDataset) -> None:
    assert (coco128.splits["train"].images, coco128.splits["train"].boxes) == (128, 929)


def test_built_in_map(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    assert metrics.map50 == pytest.approx(0.5478, abs=0.003)
    assert metrics.map == pytest.approx(0.3483, abs=0.003)
    assert len(metrics.classes) == 71


def test_precision_and_recall(evaluation: Evaluation) -> None:
    assert evaluation.metrics.precision == pytest.approx(0.6577, abs=0.003)
    assert evaluation.metrics.recall == pytest.approx(0.4785, abs=0.003)


def test_number_of_detections(evaluation: Evaluation) -> None:
    assert len(evaluation.detections) == pytest.approx(29_361, rel=0.002)
    assert {row["category_id"] for row in evaluation.detections} <= set(CATEGORY_IDS)


def test_the_official_coco_evaluation_runs_about_a_point_higher(evaluation: Evaluation) -> None:
    coco = evaluation.coco()
    assert 0.005 < coco.ap - evaluation.metrics.map < 0.015
    assert 0.005 < coco.ap50 - evaluation.metrics.map50 < 0.015


def test_most_confident_detections_are_of_the_right_class(evaluation: Evaluation) -> None:
    matrix = evaluation.confusion.matrix
    assert matrix[:, :80].sum() == 929
    paired = matrix[:80, :80]
    assert paired.trace() > 0.85 * paired.sum()
