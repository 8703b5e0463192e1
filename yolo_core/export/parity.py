"""Does an exported model say what the model says? Raw outputs and detections, image by image."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.letterbox import letterbox
from yolo_core.export.limits import EXACT, Parity, Tolerance
from yolo_core.metrics.boxes import pairwise_iou
from yolo_core.metrics.nms import NmsSettings, non_max_suppression

Predict = Callable[[Tensor], Tensor]

NMS = NmsSettings(confidence=0.25, iou=0.45)
_WARM_UP = 3
_SCORE_DECIMALS = 3


def compare(
    reference: Predict, others: Mapping[str, Predict], images: Iterable[Tensor], tolerance: Tolerance = EXACT
) -> dict[str, Parity]:
    """Run every model on every image and compare raw outputs and detections with the reference's.

    Args:
        reference: the model in PyTorch.
        others: exported models by name.
        images: batches (B, 3, S, S) in 0..1; only one is held at a time.
        tolerance: of a counterpart.
    """
    tallies = {name: Tally(tolerance=tolerance) for name in others}
    with torch.inference_mode():
        for batch in images:
            expected = reference(batch)
            for name, other in others.items():
                tallies[name].add(expected, other(batch))
    return {name: tally.result() for name, tally in tallies.items()}


@dataclass(kw_only=True)
class Tally:
    """Sums over images; ``boxes`` and ``scores`` are (largest error, sum of errors, number of values)."""

    tolerance: Tolerance = EXACT
    confidence: float = NMS.confidence  # from which a detection needs a counterpart
    images: int = 0
    boxes: tuple[float, float, int] | None = None
    scores: tuple[float, float, int] | None = None
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])  # the reference's, of both, with a partner

    @property
    def nms(self) -> NmsSettings:
        """What both sides' detections must be made with for `add_detections`."""
        return replace(NMS, confidence=max(self.confidence - self.tolerance.score, 0.0))

    def add(self, expected: Tensor, actual: Tensor) -> None:
        """Compare a batch of outputs, (B, N, 5 + nc) each."""
        wanted = detections_of(expected, self.nms)
        if actual.shape != expected.shape:
            self.boxes = self.scores = (math.inf, math.inf, 1)
            found = [rows[:0] for rows in wanted]
        else:
            error = (expected - actual).abs().nan_to_num(nan=math.inf)
            self.boxes = _widen(self.boxes, error[..., :4])
            self.scores = _widen(self.scores, error[..., 4:])
            found = detections_of(actual, self.nms)
        for first, second in zip(wanted, found, strict=True):
            self.add_detections(first, second)

    def add_detections(self, expected: Tensor, actual: Tensor) -> None:
        """Compare the detections of an image, (n, 6) and (m, 6)."""
        self.images += 1
        partners = pair_same(expected, actual, self.tolerance)
        first, second = (rows[:, 4] > self.confidence for rows in (expected, actual))
        self.counts[0] += int(first.sum())
        self.counts[1] += int(first.sum()) + int(second.sum())
        self.counts[2] += sum(int(first[i]) + int(second[j]) for i, j in partners)

    def result(self) -> Parity:
        """Return the figures over all images."""
        detections, both, paired = self.counts
        return Parity(
            images=self.images,
            max_box_error=self.boxes and self.boxes[0],
            mean_box_error=self.boxes and self.boxes[1] / self.boxes[2],
            max_score_error=self.scores and self.scores[0],
            mean_score_error=self.scores and self.scores[1] / self.scores[2],
            detections=detections,
            matched=paired / both if both else 1.0,
        )


def _widen(known: tuple[float, float, int] | None, error: Tensor) -> tuple[float, float, int]:
    largest, total, number = known or (0.0, 0.0, 0)
    return (max(largest, float(error.max())), total + float(error.double().sum()), number + error.numel())


def detections_of(outputs: Tensor, nms: NmsSettings = NMS) -> list[Tensor]:
    """Detections of a batch of outputs (B, N, 5 + nc), (n, 6) per image, that rounding does not decide.

    Of overlapping boxes NMS keeps the best, and where a model is sure of many (scores of .99999) the seventh
    digit would say which, and from there on everything else. So scores are rounded to a thousandth: what is
    equally good then is taken in the order of the outputs, which is the same for every format.
    """
    scores = outputs[..., 4:].round(decimals=_SCORE_DECIMALS)
    return non_max_suppression(torch.cat((outputs[..., :4], scores), -1), nms)


def pair_same(first: Tensor, second: Tensor, tolerance: Tolerance = EXACT) -> list[tuple[int, int]]:
    """Pair the detections, (n, 6) and (m, 6), that are the same, nearest first; each has one partner at most.

    Returns:
        Their indices.
    """
    if not len(first) or not len(second):
        return []
    overlap = pairwise_iou(first[:, :4], second[:, :4])
    same = (overlap >= tolerance.iou) & (first[:, None, 5] == second[None, :, 5])
    same &= (first[:, None, 4] - second[None, :, 4]).abs() <= tolerance.score
    left, right = set(range(len(first))), set(range(len(second)))
    pairs = []
    for i, j in same.nonzero()[overlap[same].argsort(descending=True, stable=True)].tolist():
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            pairs.append((i, j))
    return pairs


def to_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """Letterbox an (H, W, 3) BGR image to the exported square: (1, 3, size, size) RGB in 0..1."""
    return as_tensor(letterbox(image, (size, size), scale_up=True).image)


def as_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Turn an (H, W, 3) BGR image into what models take: (1, 3, H, W) RGB in 0..1."""
    planes = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(planes)[None].float() / 255


def latency_ms(run: Callable[[], object], runs: int = 20) -> float:
    """Median milliseconds of a call, after a few that are not counted."""
    times = []
    with torch.inference_mode():
        for number in range(_WARM_UP + runs):
            began = time.perf_counter()
            run()
            if number >= _WARM_UP:
                times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
