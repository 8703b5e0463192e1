"""Rebuilds the closed-formula weights and inputs that the goldens' README describes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core.model.graph import DetectionModel, create_model

GoldenModel = Callable[[str, torch.dtype], DetectionModel]
GoldenImages = Callable[[int, list[int], torch.dtype], Tensor]


def formula(index: int, count: int) -> Tensor:
    """u(i, n) of the goldens: float64 values in -1..1."""
    j = torch.arange(count, dtype=torch.int64)
    residue = (31 * j * j + 17 * (2 * index + 1) * j + 101 * index + 7) % 65521
    return residue.double() / 65521 * 2 - 1


def golden_entry(index: int, name: str, value: Tensor) -> Tensor:
    """The entry of the golden state dict with that index; integers and anchors as they are."""
    if not value.is_floating_point() or name.endswith(".anchors"):
        return value
    u = formula(index, value.numel()).view(value.shape)
    if value.ndim == 4:
        return u * 1.6 * math.sqrt(3 / math.prod(value.shape[1:]))
    if name.endswith("bn.weight"):
        return 1 + 0.1 * u
    if name.endswith(("bn.bias", "running_mean")):
        return 0.1 * u
    return 1 + 0.5 * u.abs() if name.endswith("running_var") else 0.5 * u


@pytest.fixture(scope="session")
def forward_golden(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "forward.json").read_text())


@pytest.fixture(scope="session")
def loss_golden(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "loss.json").read_text())["yolov5n"]


@pytest.fixture(scope="session")
def golden_model() -> GoldenModel:
    """Builds a variant with the golden weights, in training mode."""

    def build(name: str, dtype: torch.dtype) -> DetectionModel:
        model = create_model(name).to(dtype)
        entries = model.state_dict().items()
        state = {key: golden_entry(i, key, value) for i, (key, value) in enumerate(entries)}
        model.load_state_dict(state)
        return model

    return build


@pytest.fixture(scope="session")
def golden_images() -> GoldenImages:
    """Builds the golden input: index of the formula, shape, dtype."""

    def build(index: int, shape: list[int], dtype: torch.dtype) -> Tensor:
        return ((formula(index, math.prod(shape)) + 1) / 2).view(shape).to(dtype)

    return build
