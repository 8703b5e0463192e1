"""Which backend a detector computes with, and what it says where one cannot run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolo_core import load_checkpoint
from yolo_core.data.images import Pixels
from yolo_core.detector import Detector, Request, request_of
from yolo_core.engine.detections import describe
from yolo_core.engine.evaluate import EvalSettings, detect
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.metrics.nms import NmsSettings

SIZE = 256


@pytest.fixture(scope="module")
def weights(assets: Path) -> Path:
    return assets / "weights" / "yolov5n.pt"


@pytest.fixture(scope="module")
def picture(assets: Path) -> Pixels:
    image = cv2.imread(str(sorted(assets.glob("coco128_yolo/**/*.jpg"))[0]))
    assert image is not None
    return image.astype(np.uint8)


def two(weights: Path, first: Path) -> Detector:
    """A checkpoint that stands in for an export called onnx."""
    return Detector({"onnx": first, "checkpoint": weights}, ["onnx", "checkpoint"], SIZE)


def test_a_checkpoint_finds_what_its_model_finds(weights: Path, picture: Pixels) -> None:
    model = load_checkpoint(weights)
    settings = EvalSettings(image_size=SIZE, nms=NmsSettings())
    (expected,) = (describe(rows, model.names) for rows in detect(model, [picture], settings))
    (found,) = Detector({"checkpoint": weights}, ["checkpoint"], SIZE)([picture])
    assert [row["name"] for row in found] == [row["name"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one["xyxy"], other["xyxy"], atol=0.5)
        assert abs(one["score"] - other["score"]) < 2e-3


def test_a_missing_runtime_is_passed_over_once_and_told_by_name(
    weights: Path,
    picture: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    export = tmp_path / "model.onnx"
    export.write_bytes(b"x")
    detector = two(weights, export)
    with caplog.at_level(logging.WARNING):
        first, second = detector([picture]), detector([picture])
    assert first == second
    (record,) = caplog.records
    assert record.message.startswith("backend onnx is passed over: format onnx needs the package onnxruntime")
    with pytest.raises(UsageError, match="format onnx needs the package onnxruntime"):
        detector([picture], Request(backend="onnx"))


def test_a_broken_export_is_passed_over_and_told_by_name(
    weights: Path, picture: Pixels, tmp_path: Path
) -> None:
    broken = tmp_path / "model.torchscript"
    broken.write_bytes(b"nothing")
    detector = two(weights, broken)
    assert detector([picture])[0]
    with pytest.raises(CheckpointError, match=r"model\.torchscript is broken"):
        detector([picture], Request(backend="onnx"))
    with pytest.raises(UsageError, match=r"no backend can do this: onnx: .* is broken"):
        Detector({"onnx": broken}, ["onnx"])([picture])


def test_unknown_backends_and_none_at_all(weights: Path, picture: Pixels) -> None:
    with pytest.raises(UsageError, match="unknown backend 'keras'; choose from best, checkpoint"):
        Detector({"checkpoint": weights}, ["checkpoint"])([picture], Request(backend="keras"))
    with pytest.raises(UsageError, match="no backend can do this: there is none"):
        Detector({}, [])([picture])


def test_pictures_are_taken_one_by_one(weights: Path, picture: Pixels) -> None:
    """So that a long list need not be decoded at once, and what is wrong ends it there."""
    taken: list[int] = []

    def pictures() -> Any:
        for number in range(3):
            taken.append(number)
            if number == 1:
                raise UsageError("image 1 is broken")
            yield picture

    with pytest.raises(UsageError, match="image 1"):
        Detector({"checkpoint": weights}, ["checkpoint"], SIZE)(pictures())
    assert taken == [0, 1]


def test_params_become_a_request() -> None:
    assert request_of({}) == Request()
    request = request_of({"conf": 0.5, "iou": 1, "max_det": 7, "size": 640, "backend": "onnx"})
    nms = NmsSettings(confidence=0.5, iou=1.0, max_detections=7)
    assert request == Request(backend="onnx", image_size=640, nms=nms)
    with pytest.raises(UsageError, match="param size must be 0, or 32 to 320 pixels, not 640"):
        request_of({"size": 640}, largest=320)
