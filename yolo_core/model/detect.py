"""The detection head: one 1x1 convolution per level, and the decoding of its cells into boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Input size and number of objects per image that the objectness bias at birth supposes (spec, Layers).
_BIRTH_SIZE = 640
_BIRTH_OBJECTS = 8
_BIRTH_CLASS_SHARE = 0.6


class Detect(nn.Module):
    """Head over ``len(channels)`` feature maps, fine to coarse.

    Outputs per anchor are x, y, w, h, objectness and one score per class: ``5 + num_classes``
    values. The buffer ``anchors`` (levels, anchors, 2) holds w, h in *grid units* of its level, as in the
    release's checkpoints.
    """

    anchors: Tensor

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[float]],
        strides: Sequence[int],
        channels: Sequence[int],
    ) -> None:
        """``anchors`` in input pixels: one row w, h, w, h, ... per level."""
        super().__init__()
        self.num_classes = num_classes
        self.outputs = 5 + num_classes
        self.strides = tuple(int(stride) for stride in strides)
        self.num_anchors = len(anchors[0]) // 2
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(strides), self.num_anchors, 2)
        self.register_buffer("anchors", pixels / torch.tensor(self.strides).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, self.outputs * self.num_anchors, 1) for c in channels)
        self._bias_at_birth()

    @torch.no_grad()
    def _bias_at_birth(self) -> None:
        """Start from about 8 objects per 640 px image and near-even classes, else the loss starts huge."""
        for conv, stride in zip(self.m, self.strides, strict=True):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None  # built above
            bias = conv.bias.view(self.num_anchors, self.outputs)
            bias[:, 4] += math.log(_BIRTH_OBJECTS / (_BIRTH_SIZE / stride) ** 2)
            bias[:, 5:] += math.log(_BIRTH_CLASS_SHARE / (self.num_classes - 0.99))

    def forward(self, maps: list[Tensor]) -> list[Tensor] | Tensor:
        """Feature maps (B, C, H, W) -> raw levels when training, decoded boxes otherwise.

        Training: a list of (B, anchors, H, W, 5 + nc) raw values (views, in the convolution's memory
        layout). Evaluation: (B, N, 5 + nc) as `decode` gives, levels from fine to coarse.
        """
        raw = [self._split_anchors(conv(x)) for conv, x in zip(self.m, maps, strict=True)]
        if self.training:
            return raw
        return torch.cat([self.decode(x, level) for level, x in enumerate(raw)], 1)

    def _split_anchors(self, out: Tensor) -> Tensor:
        batch, _, height, width = out.shape
        return out.view(batch, self.num_anchors, self.outputs, height, width).permute(0, 1, 3, 4, 2)

    def decode(self, raw: Tensor, level: int) -> Tensor:
        """Decode one level: (B, A, H, W, 5 + nc) raw -> (B, A * H * W, 5 + nc).

        Boxes come as centre x, y, w, h in input pixels, scores after the sigmoid; rows go anchor by
        anchor, then row by row; see `decode_boxes`. Half precision is raised to float32 first: bfloat16
        cannot tell pixel 641 from 640.
        """
        if raw.dtype in (torch.float16, torch.bfloat16):
            raw = raw.float()
        score = raw.sigmoid()
        xy, wh = decode_boxes(score, *self.geometry(raw, level))
        return torch.cat((xy, wh, score[..., 4:]), -1).reshape(raw.shape[0], -1, self.outputs)

    def geometry(self, raw: Tensor, level: int) -> tuple[Tensor, Tensor, int]:
        """Cells (H, W, 2) as x, y; anchors (A, 1, 1, 2) in input pixels; and stride of a level."""
        height, width = raw.shape[2], raw.shape[3]
        y = torch.arange(height, device=raw.device, dtype=raw.dtype)
        x = torch.arange(width, device=raw.device, dtype=raw.dtype)
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        stride = self.strides[level]
        anchors = (self.anchors[level].to(raw.dtype) * stride).view(self.num_anchors, 1, 1, 2)
        return torch.stack((columns, rows), -1), anchors, stride


def decode_boxes(score: Tensor, cells: Tensor, anchors: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Centre x, y and w, h, (..., 2) each, in input pixels, of values (..., 4 or more) after the sigmoid s.

    ``xy = (2 s - 0.5 + cell) * stride`` and ``wh = (2 s)^2 * anchor``; cells as x, y and anchors in pixels
    are (..., 2), or of shapes that fit to them.
    """
    return (score[..., 0:2] * 2 - 0.5 + cells) * stride, (score[..., 2:4] * 2) ** 2 * anchors
