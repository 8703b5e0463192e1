"""Whether scores mean what they say: of detections scored .7, are 70 % right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.average_precision import Bools, Floats, Ints
from yolo_core.metrics.coco_matching import CROWD, CocoMatches


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reliability:
    """Precision beside score, in b bins of equal width over the scores 0..1.

    Attributes:
        edges: (b + 1,) of the bins; a bin holds its lower edge, the last one also 1.
        counts: (b,) detections.
        score: (b,) their mean score; 0 in an empty bin, as the next.
        precision: (b,) the share of them that is right.
    """

    edges: Floats
    counts: Ints
    score: Floats
    precision: Floats

    @property
    def expected_calibration_error(self) -> float:
        """Mean over the detections of their bin's gap between precision and score; 0 without any.

        ``sum(counts / n * |precision - score|)``: Guo et al., "On Calibration of Modern Neural Networks",
        ICML 2017, equation 3. Detections of low score are the most by far and outweigh the others: leave out
        those below the score from which the detector is used.
        """
        return float(self.counts @ np.abs(self.precision - self.score) / max(self.counts.sum(), 1))


def reliability(scores: NDArray[np.floating], correct: Bools, bins: int = 10) -> Reliability:
    """Compute the curve of (n,) scores in 0..1 and whether each detection is right.

    Raises:
        UsageError: no bins.
        DataError: a score is not in 0..1, or there are not as many scores as answers.
    """
    if bins < 1:
        raise UsageError(f"a reliability curve needs at least one bin, not {bins}")
    if scores.shape != correct.shape:
        raise DataError(f"{len(scores)} scores do not go with {len(correct)} answers")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("a score is not a number in 0..1")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    held = np.maximum(counts, 1)
    return Reliability(
        edges=edges,
        counts=counts,
        score=np.bincount(place, scores, bins) / held,
        precision=np.bincount(place, correct, bins) / held,
    )


def calibration(
    matches: CocoMatches, *, confidence: float = 0.0, label: int | None = None, bins: int = 10
) -> Reliability:
    """Reliability of matched detections at their first IoU threshold, as a rule .5.

    Args:
        matches: of the images; detections on crowds do not count.
        confidence: least score of a detection that counts.
        label: only this class; None: all.
        bins: of the curve.
    """
    kept = (matches.score >= confidence) & (matches.truth[:, 0] != CROWD)
    if label is not None:
        kept &= matches.label == label
    return reliability(matches.score[kept], matches.truth[kept, 0] >= 0, bins)
