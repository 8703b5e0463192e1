"""Size and cost of a model: parameters and floating-point operations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from yolo_core.model.graph import DetectionModel


def count_parameters(model: nn.Module) -> int:
    """Number of learnable values."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops(model: DetectionModel, size: int = 640) -> float:
    """Billions of floating-point operations for one square image of ``size`` pixels.

    A multiplication and an addition count as two, as in the release's table. Convolutions (with bias) and
    batch normalisations count; activations, pooling and copies do not. Nothing is computed: the
    model is copied to the `meta` device, where only shapes exist.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    operations = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal operations
        if isinstance(module, nn.Conv2d):
            taps = module.weight[0].numel() + (module.bias is not None)
            operations += 2 * taps * output.numel()
        else:
            operations += 2 * 2 * output.numel()

    for module in shadow.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, 3, size, size, device="meta"))
    return operations / 1e9
