"""The `export` section: what it takes and what it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from components.config import load_section
from components.export.config import FORMATS, ExportConfig
from yolo_core.errors import UsageError
from yolo_core.export import backends

QUICK = ("torchscript", "onnx", "openvino")


def test_formats_are_those_of_the_library() -> None:
    assert tuple(backends.FORMATS) == FORMATS


def test_the_projects_params_ask_for_quick_formats_and_enough_evidence(params: dict[str, Any]) -> None:
    config = load_section(params, "export", ExportConfig)
    assert set(QUICK) <= set(config.formats)
    assert config.parity_images >= config.enough.images >= 50
    assert config.opset >= 17
    assert config.limits.fp32.max_box_error is not None
    assert config.nms.max_detections == 300


def test_limits_are_looser_where_precision_is_lower(params: dict[str, Any]) -> None:
    limits = load_section(params, "export", ExportConfig).limits
    ordered = (limits.fp32, limits.fp16, limits.bf16, limits.int8)
    for strict, loose in pairwise(ordered):
        assert strict.min_matched >= loose.min_matched
        assert strict.same_iou >= loose.same_iou
        assert strict.max_ap_loss is not None and loose.max_ap_loss is not None
        assert strict.max_ap_loss <= loose.max_ap_loss


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("formats", [], r"export: formats: choose from torchscript, onnx"),
        ("formats", ["onnx", "pickle"], r"got \['onnx', 'pickle'\]"),
        ("formats", ["onnx", "onnx"], "each once"),
        ("image_size", 0, "image_size must be 1 or more"),
        ("image_size", "big", "export.image_size must be int or null"),
        ("ap_images", 0, "ap_images must be 1 or more, or null"),
        ("batch_size", 0, "batch_size must be 1 or more"),
        ("opset", 0, "opset must be 1 or more"),
        ("calibration_images", 0, "calibration_images must be 1 or more"),
        ("parity_images", 0, "parity_images must be 1 or more"),
        ("latency_runs", 0, "latency_runs must be 1 or more"),
        ("at_once", 0, "at_once must be 1 or more"),
        ("minutes", 0.0, "minutes must be more than 0"),
        ("split", "tset", "split is 'tset'; choose one of auto, val, test, train"),
        ("nms", {"confidence": 2.0, "iou": 0.4, "max_detections": 9}, r"confidence must lie in 0\.\.1"),
        ("enough", {"images": 0, "detections": 9, "objects": 9}, "export.enough: images must be 1 or more"),
    ],
)
def test_bad_values(params: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_section(params | {"export": {**params["export"], key: value}}, "export", ExportConfig)


def test_bad_limits_name_their_precision(params: dict[str, Any]) -> None:
    export = params["export"]
    limits = {**export["limits"], "bf16": {**export["limits"]["bf16"], "max_ap_loss": -1}}
    with pytest.raises(UsageError, match=r"export\.limits\.bf16: max_ap_loss must be 0 or more"):
        load_section(params | {"export": {**export, "limits": limits}}, "export", ExportConfig)
