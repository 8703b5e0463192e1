from __future__ import annotations

import copy
from pathlib import Path

import cv2
import pytest
import torch

from yolo_core.engine import fast
from yolo_core.engine.fast import FastDetector
from yolo_core.metrics.nms import NmsSettings, non_max_suppression, suppress
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.weights import load_checkpoint

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    model = create_model("yolov5n", 4)
    model.train()
    with torch.no_grad():
        for _ in range(3):  # statistics that a wrong folding would show
            model(torch.rand(4, 3, 64, 64))
    return model.eval()


@torch.no_grad()
def test_equals_the_model(model: DetectionModel) -> None:
    torch.testing.assert_close(FastDetector(model)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_equals_the_model_where_layers_run_one_by_one(
    model: DetectionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "_has_fused_convolution", lambda: False)
    torch.testing.assert_close(FastDetector(model)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("confidence", [0.0, 0.001, 0.02, 1.0])
def test_likely_rows_are_those_of_the_model_above_the_confidence(
    model: DetectionModel, confidence: float
) -> None:
    detector = FastDetector(model)
    for rows, dense in zip(detector.likely(IMAGES, confidence), detector(IMAGES), strict=True):
        rows = rows[rows[:, 4] > confidence]
        torch.testing.assert_close(rows, dense[dense[:, 4] > confidence], rtol=1e-6, atol=1e-5)


@torch.no_grad()
def test_half_precision_stays_near_and_its_boxes_are_float32(model: DetectionModel) -> None:
    detector = FastDetector(model, precision="bf16")
    (out,), reference = detector(IMAGES[:1]), model(IMAGES[:1])[0]
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[:, 4:], reference[:, 4:], rtol=0.1, atol=0.02)
    assert (out[:, :4] - reference[:, :4]).abs().mean() < 1
    assert detector.likely(IMAGES, 0.001)[0].dtype == torch.float32


def test_the_model_stays_as_it_was(model: DetectionModel) -> None:
    before = copy.deepcopy(model.state_dict())
    model.train()
    FastDetector(model, precision="bf16")(IMAGES)
    assert model.training and model.detect.training and not model.fused
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert next(model.parameters()).requires_grad
    model.eval()


def test_a_fused_model_serves_too(model: DetectionModel) -> None:
    fused = copy.deepcopy(model).fuse()
    assert torch.equal(FastDetector(fused)(IMAGES), FastDetector(model)(IMAGES))


def test_finds_what_the_official_model_finds(assets: Path) -> None:
    model = load_checkpoint(assets / "weights/yolov5n.pt").float()
    photo = cv2.imread(str(sorted((assets / "coco128_yolo/images/train2017").glob("*.jpg"))[0]))
    height, width = (side // 32 * 32 for side in photo.shape[:2])
    pixels = torch.from_numpy(photo[:height, :width, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    settings = NmsSettings(confidence=0.001, iou=0.65, multi_label=True)
    with torch.no_grad():
        (expected,) = non_max_suppression(model.eval()(pixels), settings)
    (found,) = suppress(FastDetector(model).likely(pixels, 0.001), settings)
    assert len(expected) > 20
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-2)
