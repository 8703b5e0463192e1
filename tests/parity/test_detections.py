"""What the official yolov5n finds on a few photographs of COCO128, as recorded in data/detections.json.

Run this file itself (`python tests/parity/test_detections.py`) to record anew, after a change that is meant
to change detections; then look at the difference.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolo_core.data.images import read_image
from yolo_core.engine.evaluate import EvalSettings, detect
from yolo_core.metrics.average_precision import box_iou
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel
from yolo_core.model.weights import load_checkpoint

RECORD = Path(__file__).parent / "data/detections.json"
SETTINGS = EvalSettings(image_size=640, nms=NmsSettings(confidence=0.25, iou=0.45))
BOX_TOLERANCE, SCORE_TOLERANCE = 0.1, 0.002  # pixels; another processor or JPEG decoder rounds otherwise


def find(model: DetectionModel, assets: Path, name: str, settings: EvalSettings = SETTINGS) -> np.ndarray:
    """(n, 6) detections on a photograph: xyxy in its pixels, score, class index."""
    return detect(model, [read_image(assets / "coco128_yolo/images/train2017" / name)], settings)[0]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(RECORD.read_text())
    return content


@pytest.fixture(scope="module")
def model(assets: Path) -> DetectionModel:
    return load_checkpoint(assets / "weights/yolov5n.pt").fuse()


@pytest.fixture(scope="module")
def found(recorded: dict[str, Any], model: DetectionModel, assets: Path) -> dict[str, np.ndarray]:
    return {name: find(model, assets, name) for name in recorded}


def test_the_record_is_of_many_kinds(recorded: dict[str, Any]) -> None:
    counts = [len(rows) for rows in recorded.values()]
    assert len(counts) == 8 and min(counts) == 0 and sum(counts) == 40
    assert len({row["name"] for rows in recorded.values() for row in rows}) > 10


def test_detections_are_the_recorded_ones(
    recorded: dict[str, Any], found: dict[str, np.ndarray], model: DetectionModel
) -> None:
    for name, rows in recorded.items():
        assert [model.names[int(row[5])] for row in found[name]] == [row["name"] for row in rows], name
        boxes = np.array([row["xyxy"] for row in rows]).reshape(-1, 4)
        scores = np.array([row["score"] for row in rows])
        assert np.abs(found[name][:, :4] - boxes).max(initial=0) <= BOX_TOLERANCE, name
        assert np.abs(found[name][:, 4] - scores).max(initial=0) <= SCORE_TOLERANCE, name


def test_a_batch_of_many_shapes_finds_the_same(
    found: dict[str, np.ndarray], model: DetectionModel, assets: Path
) -> None:
    folder = assets / "coco128_yolo/images/train2017"
    images = [read_image(folder / name) for name in found]
    for alone, together in zip(
        found.values(), detect(model, images, replace(SETTINGS, batch_size=8)), strict=True
    ):
        assert np.array_equal(alone[:, 5], together[:, 5])
        assert np.abs(alone - together).max(initial=0) <= BOX_TOLERANCE


def test_rectangles_and_squares_give_boxes_in_the_same_pixels(
    found: dict[str, np.ndarray], model: DetectionModel, assets: Path
) -> None:
    """The grey around an image is seen by the network, so scores move a little; boxes must not."""
    for name, rectangular in found.items():
        square = find(model, assets, name, replace(SETTINGS, rectangular=False))
        sure = rectangular[rectangular[:, 4] > 0.4]
        overlap = box_iou(sure, square) * (sure[:, None, 5] == square[None, :, 5])
        assert (overlap.max(1, initial=0) > 0.9).all(), name


def record() -> None:
    """Write what is found now on the photographs that the record names."""
    assets = Path(os.environ.get("YOLO_TEST_ASSETS", Path(__file__).parents[3] / "shared/data"))
    model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
    torch.set_num_threads(1)
    content = {
        name: [
            {
                "name": model.names[int(row[5])],
                "score": round(float(row[4]), 4),
                "xyxy": [round(float(value), 2) for value in row[:4]],
            }
            for row in find(model, assets, name)
        ]
        for name in json.loads(RECORD.read_text())
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(rows)}" for name, rows in content.items()]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    record()
