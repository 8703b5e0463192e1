"""Test-time augmentation: look at an image at several scales, some mirrored, and merge what is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_core.data.letterbox import GREY

# Scale and mirrored left-right or not, of each look (spec, Evaluation).
VIEWS = ((1.0, False), (0.83, True), (0.67, False))


def augmented(model: Callable[[Tensor], Any], stride: int) -> Callable[[Tensor], Tensor]:
    """Return a detector that looks three times: at full size, at 0.83 mirrored, and at 0.67.

    Args:
        model: images (B, 3, h, w) in 0..1, of any h and w that are multiples of the stride, -> (B, N, 5 + nc)
            with boxes as centre x, y, w, h in pixels.
        stride: the model's largest, in pixels.

    Returns:
        A detector like ``model``: the candidates of all looks in pixels of the images as given, one after
        the other, for one suppression. It costs about 2.1 times as much.
    """

    def look(images: Tensor) -> Tensor:
        found = [
            _restore(torch.as_tensor(model(view)), ratio, images.shape[3] if mirrored else None)
            for scale, mirrored in VIEWS
            for view, ratio in [_view(images.flip(3) if mirrored else images, scale, stride)]
        ]
        return torch.cat(found, 1)

    return look


def _view(images: Tensor, scale: float, stride: int) -> tuple[Tensor, tuple[float, float]]:
    """Shrink images and pad them right and below to a multiple of the stride; with the (x, y) ratio."""
    if scale == 1:
        return images, (1.0, 1.0)
    height, width = images.shape[2:]
    new = max(round(height * scale), 1), max(round(width * scale), 1)
    small = F.interpolate(images, size=new, mode="bilinear", align_corners=False)
    down, right = (math.ceil(side / stride) * stride - side for side in new)
    return F.pad(small, (0, right, 0, down), value=GREY / 255), (new[1] / width, new[0] / height)


def _restore(found: Tensor, ratio: tuple[float, float], mirrored_width: int | None) -> Tensor:
    """Map a look's (B, N, 5 + nc) back to the images; ``mirrored_width`` is theirs where it was mirrored."""
    x, y, width, height = (found[..., column : column + 1] for column in range(4))
    x = x / ratio[0]
    if mirrored_width is not None:
        x = mirrored_width - x
    return torch.cat((x, y / ratio[1], width / ratio[0], height / ratio[1], found[..., 4:]), 2)
