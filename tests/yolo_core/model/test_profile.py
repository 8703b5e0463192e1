from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from yolo_core.model.graph import create_model
from yolo_core.model.profile import count_parameters, gflops


def test_parameters_are_counted_without_buffers() -> None:
    assert count_parameters(nn.Conv2d(3, 4, 3)) == 3 * 4 * 9 + 4
    assert count_parameters(nn.BatchNorm2d(5)) == 10


def test_operations_grow_with_the_area() -> None:
    model = create_model("yolov5n")
    assert gflops(model, 1280) == pytest.approx(4 * gflops(model, 640))


def test_fused_model_needs_fewer() -> None:
    model = create_model("yolov5n")
    assert gflops(copy.deepcopy(model).fuse()) < gflops(model)


def test_counting_leaves_the_model_alone() -> None:
    model = create_model("yolov5n").train()
    before = copy.deepcopy(model.state_dict())
    gflops(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
