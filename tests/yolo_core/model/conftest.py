"""What the model's tests share."""

from __future__ import annotations

from torch import nn


def with_statistics(module: nn.Module) -> nn.Module:
    """Give every batch normalisation statistics that a wrong mapping or folding would show."""
    for bn in module.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, -0.2, 0.2)
            assert bn.running_mean is not None and bn.running_var is not None
            bn.running_mean.uniform_(-0.2, 0.2)
            bn.running_var.uniform_(0.5, 1.5)
    return module.eval()
