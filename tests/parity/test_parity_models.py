"""All ten variants against the figures of the release (spec/models.json, spec/state_dict/)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_core.model.detect import Detect
from yolo_core.model.graph import DetectionModel, create_model
from yolo_core.model.profile import count_parameters, gflops
from yolo_core.model.variants import VARIANTS

pytestmark = pytest.mark.parametrize("name", list(VARIANTS))


def shape_only(name: str) -> DetectionModel:
    """The model without memory or initial values: x6 in milliseconds."""
    with torch.device("meta"):
        return create_model(name)


@pytest.fixture
def spec(spec_dir: Path, name: str) -> dict[str, Any]:
    return json.loads((spec_dir / "models.json").read_text())[name]


@pytest.fixture
def entries(spec_dir: Path, name: str) -> dict[str, Any]:
    return json.loads((spec_dir / "state_dict" / f"{name}.json").read_text())


def test_parameters(name: str, spec: dict[str, Any]) -> None:
    assert count_parameters(shape_only(name)) == spec["parameters"]


def test_fused_parameters(name: str, spec: dict[str, Any]) -> None:
    assert count_parameters(shape_only(name).fuse()) == spec["fused_parameters"]


def test_state_dict_names_shapes_and_types(name: str, spec: dict[str, Any], entries: dict[str, Any]) -> None:
    state = shape_only(name).state_dict()
    ours = [[key, list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()]
    assert ours == entries["entries"]
    assert len(ours) == spec["state_dict_entries"]


def test_order_of_parameters(name: str, entries: dict[str, Any]) -> None:
    # Optimizer states of the release are kept in this order.
    assert [key for key, _ in shape_only(name).named_parameters()] == entries["parameters_order"]


def test_graph(name: str, spec: dict[str, Any], entries: dict[str, Any]) -> None:
    model = shape_only(name)
    assert len(model.model) == spec["graph_layers"]
    assert len(list(model.modules())) == spec["modules"]
    assert [sum(p.numel() for p in layer.parameters()) for layer in model.model] == [
        layer["np"] for layer in entries["layers"]
    ]


def test_strides(name: str, spec: dict[str, Any]) -> None:
    assert shape_only(name).stride.tolist() == spec["strides"]


def test_anchors(name: str, spec: dict[str, Any]) -> None:
    # A head alone: on the meta device the anchors have no values, and a whole x6 takes seconds to make.
    variant = VARIANTS[name]
    head = Detect(80, variant.anchors, variant.strides, [8] * len(variant.strides))
    pixels = head.anchors * torch.tensor(spec["strides"]).view(-1, 1, 1)
    assert pixels.flatten(1).tolist() == spec["anchors_px"]


def test_gflops(name: str, spec: dict[str, Any]) -> None:
    assert gflops(shape_only(name)) == pytest.approx(spec["gflops_640"], rel=1e-3)
