"""Does an exported model say what the model says? Measured on real images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.letterbox import letterbox
from yolo_core.metrics.boxes import pairwise_iou
from yolo_core.metrics.nms import NmsSettings, non_max_suppression

_WARM_UP = 3
_NMS = NmsSettings(confidence=0.25, iou=0.45)
# Of two overlapping boxes whose scores are equal but for rounding NMS may keep either: that is no difference.
_SAME_IOU = _NMS.iou
_SAME_SCORE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far two models differ on the same images.

    Attributes:
        images: compared.
        max_box_error, mean_box_error: of x, y, w, h over all N outputs, in input pixels.
        max_score_error, mean_score_error: of objectness and class scores.
        detections: that the reference finds (confidence .25, IoU .45).
        matched: share of the detections of both that have a counterpart: same class, overlap
            above that IoU, score within .01; 1 when neither finds anything.
    """

    images: int
    max_box_error: float
    mean_box_error: float
    max_score_error: float
    mean_score_error: float
    detections: int
    matched: float


def compare(
    reference: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], images: Sequence[Tensor]
) -> Parity:
    """Run both on every image, (1, 3, S, S) in 0..1, and compare raw outputs and detections."""
    boxes, scores, found, matched, total = [], [], 0, 0, 0
    with torch.inference_mode():
        for image in images:
            expected, actual = reference(image), other(image)
            error = (expected - actual).abs()
            boxes.append(error[..., :4].flatten())
            scores.append(error[..., 4:].flatten())
            first, second = (non_max_suppression(output, _NMS)[0] for output in (expected, actual))
            found += len(first)
            matched += 2 * count_same(first, second)
            total += len(first) + len(second)
    box, score = torch.cat(boxes), torch.cat(scores)
    return Parity(
        images=len(images),
        max_box_error=float(box.max()),
        mean_box_error=float(box.mean()),
        max_score_error=float(score.max()),
        mean_score_error=float(score.mean()),
        detections=found,
        matched=matched / total if total else 1.0,
    )


def count_same(first: Tensor, second: Tensor) -> int:
    """Count the pairs of detections, (n, 6) and (m, 6), that are the same; each has one partner at most."""
    same = pairwise_iou(first[:, :4], second[:, :4]) >= _SAME_IOU
    same &= first[:, None, 5] == second[None, :, 5]
    same &= (first[:, None, 4] - second[None, :, 4]).abs() <= _SAME_SCORE
    return min(int(same.any(1).sum()), int(same.any(0).sum()))


def to_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """Letterbox an (H, W, 3) BGR image to the exported square: (1, 3, size, size) RGB in 0..1."""
    fitted = letterbox(image, (size, size), scale_up=True).image
    planes = np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(planes)[None].float() / 255


def latency_ms(run: Callable[[Tensor], Tensor], image: Tensor, runs: int = 20) -> float:
    """Median milliseconds of a call, after a few that are not counted."""
    times = []
    with torch.inference_mode():
        for number in range(_WARM_UP + runs):
            began = time.perf_counter()
            run(image)
            if number >= _WARM_UP:
                times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
