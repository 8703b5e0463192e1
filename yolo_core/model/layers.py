"""Building blocks of the network, as the v6.0 specification describes them.

All blocks map images in NCHW order, (B, C, H, W), to feature maps of the same order, and work
in either memory layout. Sub-module names (``conv``, ``bn``, ``cv1``, ``m``, ...) are those of the
release's checkpoints: renaming one breaks the loading of weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class _Concatenate(torch.autograd.Function):
    """`torch.cat` along the channels whose gradients are dense.

    The gradients of `torch.cat` are slices. In channels_last order a slice's pixels lie apart, and on a CPU
    the gradient of SiLU is several times slower over such a slice than over a dense copy of it.
    """

    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> Tensor:
        """[(B, C1, H, W), ...] -> (B, C1 + ..., H, W)."""
        ctx.channels = [part.shape[1] for part in maps]
        return torch.cat(maps, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """(B, C1 + ..., H, W) -> one dense gradient per input."""
        (gradient,) = gradients
        parts: tuple[Tensor, ...] = torch.split(gradient, ctx.channels, 1)
        if not gradient.is_contiguous(memory_format=torch.channels_last):
            return parts
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in parts)


def concatenate(*maps: Tensor) -> Tensor:
    """Join feature maps of one size along the channels: (B, C1, H, W), ... -> (B, C1 + ..., H, W)."""
    if not torch.is_grad_enabled() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return torch.cat(maps, 1)
    joined: Tensor = _Concatenate.apply(*maps)
    return joined


# BatchNorm settings of the release; PyTorch's defaults are 1e-5 and 0.1.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, SiLU: the unit of the whole network.

    ``padding`` defaults to ``kernel // 2``, which keeps the size at stride 1 for odd kernels.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, *, padding: int | None = None
    ) -> None:
        """Channels in and out, kernel side and stride in pixels."""
        super().__init__()
        pad = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, pad, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out

    def fuse(self) -> None:
        """Fold the batch normalisation into the convolution, in place; done twice it changes nothing.

        With the running statistics, ``bn(conv(x)) = (g / s) * conv(x) + (b - g * m / s)`` where
        ``s = sqrt(var + eps)``: the scale goes into the weight, the rest becomes the bias. Computed in
        float64, so that the only rounding is that of the result.
        """
        if not isinstance(self.bn, nn.BatchNorm2d):
            return
        self.conv = fold_batch_norm(self.conv, self.bn)
        self.bn = nn.Identity()


@torch.no_grad()
def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one biased convolution equal to ``bn(conv(x))`` in evaluation mode; the inputs stay."""
    assert bn.running_mean is not None and bn.running_var is not None  # affine, tracking: see Conv
    scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    weight = conv.weight.double() * scale[:, None, None, None]  # keeps the memory layout
    bias = bn.bias.double() - bn.running_mean.double() * scale
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(weight.to(conv.weight.dtype))
    fused.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return fused


class Bottleneck(nn.Module):
    """1x1 Conv, 3x3 Conv, and the input added when ``shortcut`` is on and the channels match."""

    def __init__(self, c_in: int, c_out: int, *, shortcut: bool = True, expansion: float = 0.5) -> None:
        """``expansion`` is the share of ``c_out`` between the two Convs."""
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden, c_out, 3)
        self.add = shortcut and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        out: Tensor = self.cv2(self.cv1(x))
        return x + out if self.add else out


class C3(nn.Module):
    """Cross-stage partial block of three 1x1 Convs and ``repeats`` Bottlenecks on one branch."""

    def __init__(self, c_in: int, c_out: int, repeats: int = 1, *, shortcut: bool = True) -> None:
        """``shortcut`` is that of the Bottlenecks."""
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(c_in, hidden, 1)
        self.cv3 = Conv(2 * hidden, c_out, 1)
        self.m = nn.Sequential(
            *(Bottleneck(hidden, hidden, shortcut=shortcut, expansion=1.0) for _ in range(repeats))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        out: Tensor = self.cv3(concatenate(self.m(self.cv1(x)), self.cv2(x)))
        return out


class SPPF(nn.Module):
    """Spatial pyramid pooling, fast: chained max-pools see 5, 9 and 13 cells with k = 5."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 5) -> None:
        """``kernel`` is the side of each max-pool, odd."""
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden * 4, c_out, 1)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        x = self.cv1(x)
        once = self.m(x)
        twice = self.m(once)
        out: Tensor = self.cv2(concatenate(x, once, twice, self.m(twice)))
        return out


class SPP(nn.Module):
    """Spatial pyramid pooling of v5.0: parallel max-pools. Its weights fit SPPF one to one."""

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...] = (5, 9, 13)) -> None:
        """``kernels`` are the sides of the max-pools, odd."""
        super().__init__()
        hidden = c_in // 2
        self.cv1 = Conv(c_in, hidden, 1)
        self.cv2 = Conv(hidden * (len(kernels) + 1), c_out, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        x = self.cv1(x)
        out: Tensor = self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))
        return out


class Focus(nn.Module):
    """Stem of v5.0: the four pixel phases stacked as channels, then a Conv at half the size."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3) -> None:
        """``kernel`` is the side of the Conv, at half the size."""
        super().__init__()
        self.conv = Conv(c_in * 4, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W), H and W even -> (B, c_out, H / 2, W / 2)."""
        phases = (
            x[..., ::2, ::2],
            x[..., 1::2, ::2],
            x[..., ::2, 1::2],
            x[..., 1::2, 1::2],
        )
        out: Tensor = self.conv(torch.cat(phases, 1))
        return out


def focus_weight_to_conv(weight: Tensor) -> Tensor:
    """Turn a Focus kernel (O, 4 C, k, k) into the equal strided one, (O, C, 2 k, 2 k).

    Channel group p of Focus holds the pixels of row phase ``p % 2`` and column phase ``p // 2``, so
    its tap (i, j) is the pixel tap (2 i + p % 2, 2 j + p // 2). With stride 2 and padding
    ``2 * (k // 2)`` both kernels then read the same pixels, zeros at the border included.
    """
    out_channels, stacked, kernel, _ = weight.shape
    phases = weight.view(out_channels, 2, 2, stacked // 4, kernel, kernel)  # O, column, row, C, i, j
    return phases.permute(0, 3, 4, 2, 5, 1).reshape(out_channels, stacked // 4, 2 * kernel, 2 * kernel)


class Concat(nn.Module):
    """Concatenate feature maps of one size along the channels."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[(B, C1, H, W), (B, C2, H, W), ...] -> (B, C1 + C2 + ..., H, W)."""
        return concatenate(*maps)
