"""Size and cost of a model: parameters and floating-point operations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from yolo_core.model.graph import DetectionModel

# What the release's counter took for one value; measured from its figures.
_BATCH_NORM_OPERATIONS = 8


def count_parameters(model: nn.Module) -> int:
    """Number of learnable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops(model: DetectionModel, size: int = 640) -> float:
    """Billions of floating-point operations for one square image of ``size`` pixels.

    Counted as in the release's table: two for each multiply-add of a convolution, eight for each value of
    a batch normalisation (nothing once fused); biases, activations, pooling and copies are left out.
    Nothing is computed: the model is copied to the `meta` device, where only shapes exist.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    operations = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal operations
        each = 2 * module.weight[0].numel() if isinstance(module, nn.Conv2d) else _BATCH_NORM_OPERATIONS
        operations += each * output.numel()

    for module in shadow.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, 3, size, size, device="meta"))
    return operations / 1e9
