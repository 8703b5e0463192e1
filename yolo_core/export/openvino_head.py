"""The detection head as OpenVINO runs it fastest: the same outputs, with less moving of data.

OpenVINO keeps feature maps channels last. The plain head takes the channels of each level apart first, which
costs it two transpositions, a split of the boxes from the scores, and a concatenation of both. Here all
channels are decoded alike where they lie, in one pass that is compiled, and then moved once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from yolo_core.model.detect import Detect
from yolo_core.model.graph import DetectionModel

Terms = tuple[Tensor, Tensor, Tensor, Tensor]


class StraightHead(Detect):
    """Decode every channel c of a level, after the sigmoid s, as ``(s + x_c) (s square_c + scale_c) + y_c``.

    That is `yolo_core.model.detect.decode_boxes` for the four channels of a box, and s for scores. (Were x
    added as y is, OpenVINO would add them up before, and the file would hold a map as large as the outputs.)

    Attributes:
        terms: per level square and scale, (1, A * (5 + nc), 1, 1), x, (1, A * (5 + nc), 1, W), and y,
            (1, A * (5 + nc), H, 1).
    """

    terms: list[Terms]

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Feature maps (B, C, H, W) of the size that ``terms`` are made for -> (B, N, 5 + nc)."""
        levels = zip(self.m, maps, self.terms, strict=True)
        return torch.cat([self._rows(conv(x).sigmoid(), terms) for conv, x, terms in levels], 1)

    def _rows(self, score: Tensor, terms: Terms) -> Tensor:
        square, scale, x, y = terms
        decoded = (score + x) * (score * square + scale) + y
        batch, _, height, width = decoded.shape
        # To channels last first: that moves nothing, as it is how they lie.
        cells = decoded.permute(0, 2, 3, 1).reshape(batch, height * width, self.num_anchors, self.outputs)
        return cells.permute(0, 2, 1, 3).reshape(batch, -1, self.outputs)


@contextmanager
def straight_head(model: DetectionModel, image_size: int) -> Iterator[None]:
    """Give a model in evaluation mode such a head, for square images of one size, while the block runs."""
    head = model.detect
    twin = copy.copy(head)  # of the same weights
    twin.__class__ = StraightHead
    assert isinstance(twin, StraightHead)
    twin.terms = [_terms(head, level, image_size) for level in range(len(head.strides))]
    model.model[-1] = twin
    try:
        yield
    finally:
        model.model[-1] = head


def _terms(head: Detect, level: int, image_size: int) -> Terms:
    side = image_size // head.strides[level]
    count, outputs = head.num_anchors, head.outputs
    cells, anchors, stride = head.geometry(torch.zeros(1, count, side, side, outputs), level)
    square, scale = torch.zeros(2, count, outputs)
    square[:, 2:4] = 4 * anchors.view(-1, 2)
    scale[:, 0:2], scale[:, 4:] = 2 * stride, 1
    x, y = torch.zeros(2, count, outputs, side)
    x[:, 0] = (cells[0, :, 0] - 0.5) / 2  # times the scale
    y[:, 1] = (cells[:, 0, 1] - 0.5) * stride
    return (
        square.view(1, -1, 1, 1),
        scale.view(1, -1, 1, 1),
        x.view(1, -1, 1, side),
        y.view(1, -1, side, 1),
    )
