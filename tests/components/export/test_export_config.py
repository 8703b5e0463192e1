"""The `export` section: what it takes and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from components.config import load_section
from components.export.config import FORMATS, ExportConfig
from components.register.config import FORMATS as REGISTERED
from yolo_core.errors import UsageError
from yolo_core.export import backends


def test_formats_are_those_of_the_library() -> None:
    assert list(FORMATS) == list(backends.FORMATS)
    assert set(REGISTERED) == {"checkpoint", *FORMATS}


def test_the_projects_params_ask_for_enough_images(params: dict[str, Any]) -> None:
    config = load_section(params, "export", ExportConfig)
    assert config.formats == FORMATS
    assert config.parity_images >= 20
    assert config.opset >= 17


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("formats", [], r"export: formats: choose from torchscript, onnx, openvino"),
        ("formats", ["onnx", "coreml"], r"got \['onnx', 'coreml'\]"),
        ("formats", ["onnx", "onnx"], "each once"),
        ("image_size", 0, "image_size must be 1 or more"),
        ("image_size", "big", "export.image_size must be int or null"),
        ("batch_size", 0, "batch_size must be 1 or more"),
        ("opset", 0, "opset must be 1 or more"),
        ("parity_images", 0, "parity_images must be 1 or more"),
        ("latency_runs", 0, "latency_runs must be 1 or more"),
        ("parity_split", "tset", "parity_split is 'tset'; choose one of auto, test, val, train"),
        ("max_box_error", -1.0, "max_box_error must be 0 or more"),
        ("max_score_error", float("nan"), "max_score_error must be 0 or more, got nan"),
        ("min_matched", 1.5, r"min_matched must lie in 0\.\.1"),
    ],
)
def test_bad_values(params: dict[str, Any], key: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_section(params | {"export": {**params["export"], key: value}}, "export", ExportConfig)
