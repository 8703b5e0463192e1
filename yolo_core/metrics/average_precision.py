"""The built-in mAP: matching detections to truths, precision and recall curves, average precision.

It interpolates at 101 points and averages over the IoU thresholds .5 to .95, as COCO does, but matches
detections once instead of once per threshold, knows neither crowds nor area ranges, and lets precision fall
to 0 at recall 1, so that a perfect class has an AP of 0.995. It runs about a point below the official COCO
evaluation; `yolo_core.metrics.coco_eval` gives that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
_RECALL_POINTS: Floats = np.linspace(0, 1, 101)
CONFIDENCES: Floats = np.linspace(0, 1, 1000)  # where the curves over confidence are sampled
_EPS = 1e-16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageMatches:
    """The detections of one image beside its truth.

    Attributes:
        correct: (n, thresholds) whether a detection is a true positive at that IoU.
        scores: (n,) in 0..1.
        classes: (n,) predicted class index.
        truths: (m,) class index of each true box.
    """

    correct: Bools
    scores: Floats
    classes: Ints
    truths: Ints


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Intersection over union of every pair of xyxy boxes: (n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None).prod(-1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    return overlap


def match_detections(
    detections: NDArray[np.floating],
    boxes: NDArray[np.floating],
    classes: Ints,
    thresholds: Floats = IOU_THRESHOLDS,
) -> ImageMatches:
    """Decide which detections of an image are right.

    A detection goes to the truth of its class that it overlaps most, if that is by the first threshold or
    more; of several at one truth the first, that is the best scored, is taken. It is right at the thresholds
    that its overlap reaches. (VOC's rule, applied once for all thresholds; COCO matches at each anew. Giving
    a truth the detection that overlaps it most instead, whatever its score, costs the official yolov5n
    7 points of mAP@.5 on COCO128: the weak doubles of a good detection often fit a little better.)

    Args:
        detections: (n, 6) xyxy, score, class index; best score first.
        boxes: (m, 4) true xyxy, in the same pixels.
        classes: (m,) true class index.
        thresholds: of IoU, rising.
    """
    predicted = detections[:, 5].astype(np.int64)
    overlap = box_iou(detections, boxes) * (predicted[:, None] == classes[None, :])
    correct = np.zeros((len(detections), len(thresholds)), np.bool_)
    if overlap.size:
        truth, reached = overlap.argmax(1), overlap.max(1)
        candidates = np.flatnonzero(reached >= thresholds[0])
        _, first = np.unique(truth[candidates], return_index=True)
        taken = candidates[first]
        correct[taken] = reached[taken, None] >= thresholds
    scores = detections[:, 4].astype(np.float64)
    return ImageMatches(correct=correct, scores=scores, classes=predicted, truths=classes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DetectionMetrics:
    """Quality of a set of detections; k classes have a truth, and only they count.

    Attributes:
        classes: (k,) class index.
        instances: (k,) true boxes.
        ap: (k, thresholds) average precision.
        precision_curve, recall_curve: (k, 1000) at IoU .5 over the confidences `CONFIDENCES`.
        pr_curve: (k, 101) at IoU .5, precision over recall 0..1, never rising.
    """

    classes: Ints
    instances: Ints
    ap: Floats
    precision_curve: Floats
    recall_curve: Floats
    pr_curve: Floats

    @property
    def map(self) -> float:
        """Mean AP over classes and the IoU thresholds .5 to .95."""
        return _mean(self.ap)

    @property
    def map50(self) -> float:
        """Mean AP over classes at IoU .5."""
        return _mean(self.ap[:, 0])

    @property
    def map75(self) -> float:
        """Mean AP over classes at IoU .75."""
        return _mean(self.ap[:, 5])

    @property
    def f1_curve(self) -> Floats:
        """(k, 1000) harmonic mean of precision and recall over the confidences."""
        product = 2 * self.precision_curve * self.recall_curve
        return product / (self.precision_curve + self.recall_curve + _EPS)

    @property
    def best_index(self) -> int:
        """Index into `CONFIDENCES` of the best mean F1."""
        return int(self.f1_curve.mean(0).argmax()) if len(self.classes) else 0

    @property
    def best_confidence(self) -> float:
        """Confidence of the best mean F1."""
        return float(CONFIDENCES[self.best_index])

    @property
    def precision(self) -> float:
        """Mean precision over classes at the best confidence, IoU .5."""
        return _mean(self.precision_curve[:, self.best_index])

    @property
    def recall(self) -> float:
        """Mean recall over classes at the best confidence, IoU .5."""
        return _mean(self.recall_curve[:, self.best_index])

    @property
    def f1(self) -> float:
        """Mean F1 over classes at the best confidence, IoU .5."""
        return _mean(self.f1_curve[:, self.best_index])

    def per_class(self, names: Sequence[str]) -> list[dict[str, float | int | str]]:
        """One row per class with truths: name, instances, precision, recall, f1, ap50, ap."""
        best, f1 = self.best_index, self.f1_curve
        return [
            {
                "name": names[int(index)],
                "instances": int(self.instances[row]),
                "precision": float(self.precision_curve[row, best]),
                "recall": float(self.recall_curve[row, best]),
                "f1": float(f1[row, best]),
                "ap50": float(self.ap[row, 0]),
                "ap": float(self.ap[row].mean()),
            }
            for row, index in enumerate(self.classes)
        ]


def summarise(images: Sequence[ImageMatches], thresholds: Floats = IOU_THRESHOLDS) -> DetectionMetrics:
    """Compute the metrics of a set of images; all zero where nothing was detected."""
    truths = np.concatenate([np.zeros(0, np.int64), *(image.truths for image in images)])
    classes, instances = np.unique(truths, return_counts=True)
    scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
    predicted = np.concatenate([np.zeros(0, np.int64), *(image.classes for image in images)])
    correct = np.concatenate([np.zeros((0, len(thresholds)), np.bool_), *(image.correct for image in images)])
    order = np.argsort(-scores, kind="stable")
    scores, predicted, correct = scores[order], predicted[order], correct[order]

    metrics = DetectionMetrics(
        classes=classes,
        instances=instances,
        ap=np.zeros((len(classes), len(thresholds))),
        precision_curve=np.zeros((len(classes), len(CONFIDENCES))),
        recall_curve=np.zeros((len(classes), len(CONFIDENCES))),
        pr_curve=np.zeros((len(classes), len(_RECALL_POINTS))),
    )
    for row, index in enumerate(classes):
        chosen = predicted == index
        if chosen.any():  # a class without any detection keeps its zeros
            _fill_row(metrics, row, correct[chosen], scores[chosen])
    return metrics


def _fill_row(metrics: DetectionMetrics, row: int, correct: Bools, scores: Floats) -> None:
    """Compute one class from its (n, thresholds) detections and their (n,) scores, best first."""
    precision, recall = _curves(correct, int(metrics.instances[row]))
    # Scores fall, np.interp wants them rising; below the lowest score nothing changes any more.
    metrics.precision_curve[row] = np.interp(-CONFIDENCES, -scores, precision[:, 0], left=1)
    metrics.recall_curve[row] = np.interp(-CONFIDENCES, -scores, recall[:, 0], left=0)
    curves = [average_precision_curve(*pair) for pair in zip(precision.T, recall.T, strict=True)]
    metrics.ap[row] = np.trapezoid(curves, _RECALL_POINTS)
    metrics.pr_curve[row] = curves[0]


def _curves(correct: Bools, truths: int) -> tuple[Floats, Floats]:
    """Precision and recall after each detection, best first: (n, thresholds) each."""
    hits = correct.cumsum(0)
    precision = hits / np.arange(1, len(correct) + 1)[:, None]
    return precision, hits / truths


def average_precision_curve(precision: Floats, recall: Floats) -> Floats:
    """Interpolate precision at 101 recalls: (n,) and (n,), recall rising -> (101,), never rising.

    The curve joins, with straight lines, the best precision at each recall reached or more; past the highest
    one it falls to 0 at recall 1. Where several detections share a recall the last of them counts at exactly
    that point. The curve's integral is the average precision (Everingham et al., "The PASCAL Visual Object
    Classes Challenge", 2010; 101 points as COCO).
    """
    best = np.maximum.accumulate(np.concatenate(([0.0], precision[::-1], [1.0])))[::-1]
    return np.interp(_RECALL_POINTS, np.concatenate(([0.0], recall, [1.0])), best)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0
