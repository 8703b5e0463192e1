"""Box arithmetic on tensors: conversions, intersection over union, complete IoU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Keeps the divisions of `ciou` finite for boxes without area.
_EPS = 1e-7


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from centre x, y, w, h to corners x1, y1, x2, y2, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Convert (..., 4) boxes from corners x1, y1, x2, y2 to centre x, y, w, h, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), -1)


def box_area(boxes: Tensor) -> Tensor:
    """Area of (..., 4) xyxy boxes; 0 for an inverted box."""
    size = (boxes[..., 2:4] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair: xyxy (N, 4) and (M, 4) -> (N, M); 0 where both are empty."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:4], second[None, :, 2:4])
    size = (high - low).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    union = box_area(first)[:, None] + box_area(second)[None, :] - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(inter))


def ciou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU of paired boxes: xywh (..., 4) and (..., 4) -> (...), at most 1.

    ``CIoU = IoU - d^2 / c^2 - alpha v``: d is the distance of the centres, c the diagonal of the box around
    both, ``v = 4 / pi^2 (atan(w2 / h2) - atan(w1 / h1))^2`` and ``alpha = v / (1 - IoU + v)``, which
    carries no gradient. Zheng et al., "Distance-IoU Loss: Faster and Better Learning for Bounding Box
    Regression", AAAI 2020, equations 7 to 11.
    """
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first.unbind(-1), second.unbind(-1)
    dx, dy = (x2 - x1).abs(), (y2 - y1).abs()
    # Overlap and hull along one axis follow from the distance of the centres and the two sizes.
    half_w, half_h = (w1 + w2) / 2, (h1 + h2) / 2
    overlap_w = torch.minimum(half_w - dx, torch.minimum(w1, w2)).clamp(min=0)
    overlap_h = torch.minimum(half_h - dy, torch.minimum(h1, h2)).clamp(min=0)
    hull_w = torch.maximum(half_w + dx, torch.maximum(w1, w2))
    hull_h = torch.maximum(half_h + dy, torch.maximum(h1, h2))
    inter = overlap_w * overlap_h
    iou = inter / (w1 * h1 + w2 * h2 - inter + _EPS)
    distance = (dx**2 + dy**2) / (hull_w**2 + hull_h**2 + _EPS)
    aspect = (torch.atan(w2 / (h2 + _EPS)) - torch.atan(w1 / (h1 + _EPS))) ** 2 * (4 / math.pi**2)
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + _EPS)
    return iou - distance - alpha * aspect
