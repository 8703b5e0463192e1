"""Does an exported model say what the model says? Measured on real images."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.letterbox import letterbox
from yolo_core.metrics.boxes import pairwise_iou
from yolo_core.metrics.nms import NmsSettings, non_max_suppression

Predict = Callable[[Tensor], Tensor]

NMS = NmsSettings(confidence=0.25, iou=0.45)
_WARM_UP = 3
_SAME_IOU = 0.99
_SAME_SCORE = 0.005
_SCORE_DECIMALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far a model differs from the reference on the same images.

    Attributes:
        images: compared.
        max_box_error, mean_box_error: of x, y, w, h over all N outputs, in input pixels; infinite
            where the outputs have other shapes or hold values that are not finite.
        max_score_error, mean_score_error: of objectness and class scores, likewise.
        detections: that the reference finds (confidence .25, IoU .45); see `detections_of`.
        matched: share of both sides' detections that have a counterpart: same class, IoU of .99 or more,
            score within .005; 1 when neither finds anything.
    """

    images: int
    max_box_error: float
    mean_box_error: float
    max_score_error: float
    mean_score_error: float
    detections: int
    matched: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a format may differ by.

    Attributes:
        max_box_error: of any raw box coordinate, in pixels.
        max_score_error: of any raw score, in 0..1.
        min_matched: share of detections with a counterpart, in 0..1.
    """

    max_box_error: float
    max_score_error: float
    min_matched: float

    def judge(self, parity: Parity) -> list[str]:
        """Return what is wrong with a parity, in words with figures; nothing when it passes."""
        box, score, found = parity.max_box_error, parity.max_score_error, parity.matched
        least = self.min_matched
        checks = (
            (box <= self.max_box_error, f"a box is {box:.4g} px off (limit {self.max_box_error:g})"),
            (score <= self.max_score_error, f"a score is {score:.4g} off (limit {self.max_score_error:g})"),
            (found >= least, f"only {found:.2%} of detections match (limit {least:.2%})"),
        )
        return [reason for passed, reason in checks if not passed]


def compare(reference: Predict, others: Mapping[str, Predict], images: Iterable[Tensor]) -> dict[str, Parity]:
    """Run every model on every image and compare raw outputs and detections with the reference's.

    Args:
        reference: the model in PyTorch.
        others: exported models by name.
        images: batches (B, 3, S, S) in 0..1; only one is held at a time.
    """
    tallies = {name: _Tally() for name in others}
    with torch.inference_mode():
        for batch in images:
            expected = reference(batch)
            for name, other in others.items():
                tallies[name].add(expected, other(batch))
    return {name: tally.result() for name, tally in tallies.items()}


@dataclass(kw_only=True)
class _Tally:
    """Sums over images; boxes and scores are (largest error, sum of errors, number of values)."""

    images: int = 0
    boxes: tuple[float, float, int] = (0.0, 0.0, 0)
    scores: tuple[float, float, int] = (0.0, 0.0, 0)
    counts: tuple[int, int, int] = (0, 0, 0)  # detections of the reference, of both, pairs

    def add(self, expected: Tensor, actual: Tensor) -> None:
        """Compare a batch of outputs, (B, N, 5 + nc) each."""
        self.images += len(expected)
        if actual.shape != expected.shape:
            self.boxes = self.scores = (math.inf, math.inf, 1)
            self._count(sum(len(rows) for rows in detections_of(expected)), 0, 0)
            return
        error = (expected - actual).abs().nan_to_num(nan=math.inf)
        self.boxes = _widen(self.boxes, error[..., :4])
        self.scores = _widen(self.scores, error[..., 4:])
        for first, second in zip(detections_of(expected), detections_of(actual), strict=True):
            self._count(len(first), len(second), count_same(first, second))

    def _count(self, first: int, second: int, pairs: int) -> None:
        known = self.counts
        self.counts = (known[0] + first, known[1] + first + second, known[2] + pairs)

    def result(self) -> Parity:
        """Return the figures over all images."""
        detections, both, pairs = self.counts
        return Parity(
            images=self.images,
            max_box_error=self.boxes[0],
            mean_box_error=self.boxes[1] / max(self.boxes[2], 1),
            max_score_error=self.scores[0],
            mean_score_error=self.scores[1] / max(self.scores[2], 1),
            detections=detections,
            matched=2 * pairs / both if both else 1.0,
        )


def _widen(known: tuple[float, float, int], error: Tensor) -> tuple[float, float, int]:
    largest, total, number = known
    return (max(largest, float(error.max())), total + float(error.double().sum()), number + error.numel())


def detections_of(outputs: Tensor) -> list[Tensor]:
    """Detections of a batch of outputs (B, N, 5 + nc), (n, 6) per image, that rounding does not decide.

    Of overlapping boxes NMS keeps the best, and where a model is sure of many (scores of .99999) the seventh
    digit would say which, and from there on everything else. So scores are rounded to a thousandth: what is
    equally good then is taken in the order of the outputs, which is the same for every format.
    """
    scores = outputs[..., 4:].round(decimals=_SCORE_DECIMALS)
    return non_max_suppression(torch.cat((outputs[..., :4], scores), -1), NMS)


def count_same(first: Tensor, second: Tensor) -> int:
    """Count the pairs of detections, (n, 6) and (m, 6), that are the same; each has one partner at most."""
    if not len(first) or not len(second):
        return 0
    overlap = pairwise_iou(first[:, :4], second[:, :4])
    same = (overlap >= _SAME_IOU) & (first[:, None, 5] == second[None, :, 5])
    same &= (first[:, None, 4] - second[None, :, 4]).abs() <= _SAME_SCORE
    left, right = set(range(len(first))), set(range(len(second)))
    for i, j in same.nonzero()[overlap[same].argsort(descending=True, stable=True)].tolist():
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
    return len(first) - len(left)


def to_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """Letterbox an (H, W, 3) BGR image to the exported square: (1, 3, size, size) RGB in 0..1."""
    fitted = letterbox(image, (size, size), scale_up=True).image
    planes = np.ascontiguousarray(fitted[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(planes)[None].float() / 255


def latency_ms(run: Predict, images: Tensor, runs: int = 20) -> float:
    """Median milliseconds of a call, after a few that are not counted."""
    times = []
    with torch.inference_mode():
        for number in range(_WARM_UP + runs):
            began = time.perf_counter()
            run(images)
            if number >= _WARM_UP:
                times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
