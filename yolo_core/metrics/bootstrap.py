"""How sure an AP is, and whether one detector is better than another: the bootstrap over images.

The images of the test set are drawn anew with replacement, many times; the spread of the AP over the draws is
its uncertainty (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979; percentile intervals). Two
detectors on the same images are compared draw by draw, which cancels what makes a draw hard for both.

Matching happens once: an image drawn k times only counts its detections and truths k times. So a resample
costs sums over sorted detections, and equals the official evaluation of a dataset that holds the image k
times (of equal scores in one image, the copies stay together).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.average_precision import Floats, Ints
from yolo_core.metrics.coco_matching import CROWD, CocoMatches

Verdict = Literal["win", "lose", "undecided"]
Counts = NDArray[np.int32]

_RECALL_POINTS: Floats = np.linspace(0, 1, 101)
FEWEST_IMAGES = 10  # with truths, that a verdict needs
_BLOCK = 2**18  # detections times resamples at a time: what the processor's cache holds


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure with its uncertainty.

    Attributes:
        value: on the images as they are.
        mean: over the resamples.
        low, high: ends of the interval.
    """

    value: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference(Interval):
    """First detector minus second: positive where the first is better.

    Attributes:
        better: share of the resamples in which the first is better; of equal ones half count. Near 0 or 1 the
            difference is hardly by chance; twice the distance to the nearer end reads like a p-value.
        images: that hold truths, of either detector's data the fewer.
    """

    better: float
    images: int

    @property
    def verdict(self) -> Verdict:
        """Whether the first wins: the interval lies on one side of 0, or says nothing.

        Few images say nothing either: what one image alone holds is the same in every resample, and its
        interval, a point, would always decide.
        """
        if self.images < FEWEST_IMAGES or self.low <= 0 <= self.high:
            return "undecided"
        return "win" if self.low > 0 else "lose"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApIntervals:
    """One detector: AP over IoU .5 to .95, AP at .5, and both by class index.

    A class without truths is None. Resamples that hold none of a class's truths do not count for it.
    """

    ap: Interval
    ap50: Interval
    class_ap: tuple[Interval | None, ...]
    class_ap50: tuple[Interval | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ApDifferences:
    """Two detectors on the same images, as in `ApIntervals`.

    Each interval stands for itself: of 100 classes that are equal, five have 95 % intervals without 0.
    """

    ap: Difference
    ap50: Difference
    class_ap: tuple[Difference | None, ...]
    class_ap50: tuple[Difference | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BootstrapSettings:
    """How to draw: number of resamples, seed, and the share of resamples within an interval."""

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.resamples < 1 or not 0 < self.level < 1:
            raise UsageError("a bootstrap needs resamples >= 1 and 0 < level < 1")


_DEFAULTS = BootstrapSettings()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Resamples:
    """One detector's APs over the resamples, to be read alone and beside others'.

    Attributes:
        table: (1 + resamples, classes, thresholds), the first of the images as they are; NaN where a class
            has no truth.
        truth_counts: (images, classes) truths that are no crowds.
        thresholds: of IoU.
        settings: of the draws; two detectors on the same images with the same settings had the same draws.
    """

    table: Floats
    truth_counts: Ints
    thresholds: Floats
    settings: BootstrapSettings

    def only(self, labels: Sequence[int]) -> Resamples:
        """Return the APs of these classes alone, in this order."""
        columns = list(labels)
        return replace(self, table=self.table[:, columns], truth_counts=self.truth_counts[:, columns])

    @property
    def images_with(self) -> Ints:
        """(classes,) images that hold truths of each class."""
        count: Ints = (self.truth_counts > 0).sum(0)
        return count

    @property
    def images_with_any(self) -> int:
        """Images that hold truths of any class."""
        return int(self.truth_counts.any(1).sum())


def resample(matches: CocoMatches, settings: BootstrapSettings = _DEFAULTS) -> Resamples:
    """Draw the images anew and read the APs of every draw.

    Raises:
        DataError: there is no truth, so no AP.
    """
    if not matches.truth_counts.any():
        raise DataError("no image has a truth, so there is no AP to draw")
    images = len(matches.truth_counts)
    drawn = draw_multiplicities(images, settings)
    return Resamples(
        table=average_precisions(matches, np.concatenate([np.ones((1, images), np.int32), drawn])),
        truth_counts=matches.truth_counts,
        thresholds=matches.thresholds,
        settings=settings,
    )


def intervals_of(drawn: Resamples) -> ApIntervals:
    """Intervals of one detector."""
    level, ap, ap50 = drawn.settings.level, drawn.table.mean(2), drawn.table[..., 0]
    return ApIntervals(
        ap=Interval(**_summary(_over_classes(ap), level)),
        ap50=Interval(**_summary(_over_classes(ap50), level)),
        class_ap=tuple(_class_interval(column, level) for column in ap.T),
        class_ap50=tuple(_class_interval(column, level) for column in ap50.T),
    )


def differences_of(first: Resamples, second: Resamples, *, paired: bool = True) -> ApDifferences:
    """Intervals of ``first`` minus ``second``.

    Args:
        first: one detector.
        second: the other, with the same classes.
        paired: both saw the same images, so each draw is compared with itself. Else the draws must be
            independent, which is what different seeds are for, and intervals are wider.

    Raises:
        DataError: paired ones have other images, truths or thresholds; or not the same number of classes.
        UsageError: paired ones were not drawn alike, or others not independently.
    """
    _check_pair(first, second, paired)
    level = first.settings.level
    one, other = first.table, second.table
    ap, ap50 = one.mean(2) - other.mean(2), one[..., 0] - other[..., 0]
    whole = min(first.images_with_any, second.images_with_any)
    images = np.minimum(first.images_with, second.images_with)
    overall = (
        _over_classes(one.mean(2)) - _over_classes(other.mean(2)),
        _over_classes(one[..., 0]) - _over_classes(other[..., 0]),
    )
    return ApDifferences(
        ap=_difference(overall[0], level, whole),
        ap50=_difference(overall[1], level, whole),
        class_ap=tuple(_class_difference(*each, level) for each in zip(ap.T, images, strict=True)),
        class_ap50=tuple(_class_difference(*each, level) for each in zip(ap50.T, images, strict=True)),
    )


def ap_intervals(matches: CocoMatches, settings: BootstrapSettings = _DEFAULTS) -> ApIntervals:
    """Draw, and return the intervals of one detector; raises as `resample` does."""
    return intervals_of(resample(matches, settings))


def ap_differences(
    first: CocoMatches, second: CocoMatches, settings: BootstrapSettings = _DEFAULTS
) -> ApDifferences:
    """Draw, and return paired intervals of ``first`` minus ``second``, both on the same images.

    Raises:
        DataError: they were matched with different truths or thresholds, or there is no truth.
    """
    _check_same(first, second)  # before the work
    return differences_of(resample(first, settings), resample(second, settings))


def draw_multiplicities(images: int, settings: BootstrapSettings) -> Counts:
    """How often each resample holds each image: (resamples, images); rows sum to ``images``."""
    rng = np.random.default_rng(settings.seed)
    drawn = (rng.integers(images, size=images) for _ in range(settings.resamples))
    return np.stack([np.bincount(row, minlength=images).astype(np.int32) for row in drawn])


def average_precisions(matches: CocoMatches, multiplicities: Counts) -> Floats:
    """COCO's AP by resample, class and threshold: (r, images) counts -> (r, classes, thresholds).

    NaN where a resample holds no truth of a class; 0 where it holds truths but no detection finds one.
    """
    # As floats, whose products are exact here and far faster than those of integers.
    truths = np.rint(multiplicities.astype(float) @ matches.truth_counts.astype(float)).astype(np.int64)
    shape = (len(multiplicities), matches.classes, len(matches.thresholds))
    result = np.zeros(shape)
    for label in range(matches.classes):
        if truths[:, label].any():
            result[:, label] = _class_precisions(matches, label, truths[:, label], multiplicities)
    result[truths == 0] = np.nan
    return result


def _class_precisions(matches: CocoMatches, label: int, truths: Ints, multiplicities: Counts) -> Floats:
    """AP of one class: (resamples, thresholds)."""
    rows = matches.class_rows(label)
    found = matches.truth[rows]
    hits = np.flatnonzero((found >= 0).any(1))  # precision only peaks, and recall only rises, at these
    result = np.zeros((len(multiplicities), len(matches.thresholds)))
    if not len(hits):
        return result
    image, found = matches.image[rows][: hits[-1] + 1], found[: hits[-1] + 1]
    chosen = [np.flatnonzero(column) for column in (found[hits] >= 0).T]
    forgiven = [np.flatnonzero(column) for column in (found == CROWD).T]
    step = max(1, _BLOCK // len(image))
    for start in range(0, len(multiplicities), step):
        block = slice(start, start + step)
        weights = multiplicities[block].take(image, 1)
        seen = weights.cumsum(1, dtype=np.int32).take(hits, 1)
        at_hits = weights.take(hits, 1)
        for threshold, (taken, skipped) in enumerate(zip(chosen, forgiven, strict=True)):
            if not len(taken):
                continue
            total = seen.take(taken, 1)
            if len(skipped):
                total = total - _before(weights.take(skipped, 1), np.searchsorted(skipped, hits[taken]))
            area = _area(at_hits.take(taken, 1), total, truths[block])
            result[block, threshold] = area
    return result


def _before(weights: Counts, places: Ints) -> Counts:
    """Sum of the first ``places`` columns, for every place: (r, n) and (m,) -> (r, m)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), np.int32)
    weights.cumsum(1, out=sums[:, 1:])
    return sums.take(places, 1)


def _area(weights: Counts, total: Counts, truths: Ints) -> Floats:
    """AP from the hits of a class, best first.

    Args:
        weights: (r, n) how often each hit counts.
        total: (r, n) detections up to and with each hit.
        truths: (r,).
    """
    hits = weights.cumsum(1, dtype=np.int32)
    # Best precision at this recall or more; a hit of weight 0 is never better than the one before it.
    best = np.maximum.accumulate((hits / np.maximum(total, 1))[:, ::-1], 1)[:, ::-1]
    reached = _points_reached(hits / np.maximum(truths, 1)[:, None])
    reached[:, 1:] -= reached[:, :-1].copy()  # now: the points that this hit is the first to reach
    area: Floats = np.einsum("rn,rn->r", best, reached) / len(_RECALL_POINTS)
    return area


def _points_reached(recall: Floats) -> Floats:
    """How many of COCO's 101 recall points are at ``recall`` or below, compared as its tool does."""
    # One more than reached at most: exact multiples of .01 are compared with the points as floats.
    last = (recall * (len(_RECALL_POINTS) - 1) + 1e-9).astype(np.int32)
    return last.astype(np.float64) + np.where(recall >= _RECALL_POINTS.take(last), 1.0, 0.0)


def _check_same(first: CocoMatches | Resamples, second: CocoMatches | Resamples) -> None:
    same = np.array_equal(first.truth_counts, second.truth_counts)
    if not same or not np.array_equal(first.thresholds, second.thresholds):
        raise DataError(
            "paired detectors need the same images, truths and thresholds; compare intervals instead"
        )


def _check_pair(first: Resamples, second: Resamples, paired: bool) -> None:
    one, other = first.settings, second.settings
    if paired:
        _check_same(first, second)
        if one != other:
            raise UsageError(f"paired detectors need the same draws; theirs are {one} and {other}")
    elif one.seed == other.seed or replace(one, seed=0) != replace(other, seed=0):
        raise UsageError(f"unpaired detectors need draws that differ by seed only, not {one} and {other}")
    if first.table.shape[1] != second.table.shape[1]:
        raise DataError(
            f"{first.table.shape[1]} classes cannot be compared with {second.table.shape[1]}; choose the "
            "ones that both have"
        )


def _over_classes(table: Floats) -> Floats:
    """Mean over the classes that a resample holds: (r, classes) -> (r,); NaN if it holds none."""
    held = ~np.isnan(table)
    total = np.where(held, table, 0).sum(1)
    mean: Floats = np.divide(total, held.sum(1), out=np.full(len(table), np.nan), where=held.any(1))
    return mean


def _summary(values: Floats, level: float) -> dict[str, float]:
    """Fields of an interval, from the figure itself and, after it, the resamples; NaN ones are dropped."""
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):  # a rare class that no resample held
        drawn = values[:1]
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return {"value": float(values[0]), "mean": float(drawn.mean()), "low": float(low), "high": float(high)}


def _class_interval(values: Floats, level: float) -> Interval | None:
    return None if np.isnan(values[0]) else Interval(**_summary(values, level))


def _class_difference(values: Floats, images: int, level: float) -> Difference | None:
    return None if np.isnan(values[0]) else _difference(values, level, int(images))


def _difference(values: Floats, level: float, images: int) -> Difference:
    drawn = values[1:][~np.isnan(values[1:])]
    better = float(((drawn > 0) + 0.5 * (drawn == 0)).mean()) if len(drawn) else 0.5
    return Difference(**_summary(values, level), better=better, images=images)
