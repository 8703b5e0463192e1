"""Do the anchors fit the boxes, and better ones if not (spec, "Autoanchor").

All sizes are (w, h) in pixels at the training size, float64 arrays of shape (n, 2). A box fits an
anchor when neither side differs by more than the factor ``limit`` (the recipe's ``anchor_t``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yolo_core.errors import DataError

if TYPE_CHECKING:
    from yolo_core.data.coco import Sample

Sizes = NDArray[np.float64]

ENOUGH_RECALL = 0.98
SMALLEST_SIDE = 2.0
"""Boxes with a side below this many pixels do not vote on the centres."""
MUTATIONS = 1000
MOST_VOTERS = 20_000
"""Boxes that the search looks at: COCO's 860,000 would take minutes and change nothing."""


@dataclass(frozen=True, kw_only=True)
class AnchorFit:
    """The anchors to train with: rows w, h, w, h, ... per level in pixels, and how well they fit.

    ``recall`` is the best possible recall (`best_possible_recall`) and ``closeness`` the mean closeness
    (`mean_closeness`) of the returned ones, ``..._before`` of the given ones.
    """

    anchors: tuple[tuple[float, ...], ...]
    recall_before: float
    recall: float
    closeness_before: float
    closeness: float
    changed: bool


def box_sizes(samples: Sequence[Sample], image_size: int) -> Sizes:
    """Return w, h of every box, scaled as its image is when its longest side becomes ``image_size``."""
    sizes = [np.zeros((0, 2))]
    for sample in samples:
        boxes = sample.boxes.astype(np.float64)
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * (image_size / max(sample.width, sample.height)))
    found: Sizes = np.concatenate(sizes)
    return found[np.flatnonzero((found > 0).all(axis=1))]


def best_possible_recall(sizes: Sizes, anchors: Sizes, limit: float) -> float:
    """Return the share of boxes that some anchor fits."""
    return float((_closeness(sizes, anchors) > 1 / limit).mean())


def mean_closeness(sizes: Sizes, anchors: Sizes) -> float:
    """Return the mean over boxes of how close the best anchor comes: the worse side's ratio, 1 if exact."""
    return float(_closeness(sizes, anchors).mean())


def needed_ratio(sizes: Sizes, anchors: Sizes) -> float:
    """Return the ratio of sides, 1 or more, within which all but a hundredth of the boxes have an anchor."""
    return float(1 / np.quantile(_closeness(sizes, anchors), 0.01))


def fit_anchors(
    sizes: Sizes,
    anchors: Sequence[Sequence[float]],
    limit: float,
    *,
    seed: int = 0,
    least_gain: float | None = None,
) -> AnchorFit:
    """Keep ``anchors`` (rows per level, pixels) if they fit, else search better ones.

    See `judge_anchors` for keeping them whether they fit or not.

    They are replaced when their recall is below 0.98 and the search finds a higher one; with ``least_gain``
    also when the search brings the mean closeness up by that share at least. Raises `DataError` if
    there is no box.
    """
    kept = judge_anchors(sizes, anchors, limit)
    recall, closeness, given = kept.recall, kept.closeness, np.asarray(anchors)
    if recall >= ENOUGH_RECALL and least_gain is None:
        return kept
    found = search_anchors(sizes, given.size // 2, limit, seed=seed).round(2)
    new_recall, new_closeness = best_possible_recall(sizes, found, limit), mean_closeness(sizes, found)
    missed_boxes = recall < ENOUGH_RECALL and new_recall > recall
    much_closer = least_gain is not None and new_closeness >= closeness * (1 + least_gain)
    if not missed_boxes and not (much_closer and new_recall >= min(recall, ENOUGH_RECALL)):
        return kept
    rows = _as_rows(found.reshape(given.shape))
    return replace(kept, anchors=rows, recall=new_recall, closeness=new_closeness, changed=True)


def judge_anchors(sizes: Sizes, anchors: Sequence[Sequence[float]], limit: float) -> AnchorFit:
    """Keep ``anchors`` (rows per level, pixels), whether they fit or not. `DataError` if there is no box."""
    if not len(sizes):
        raise DataError("the training split has no boxes to fit anchors to")
    given = np.asarray(anchors, dtype=np.float64)
    flat = given.reshape(-1, 2)
    recall, closeness = best_possible_recall(sizes, flat, limit), mean_closeness(sizes, flat)
    return AnchorFit(
        anchors=_as_rows(given),
        recall_before=recall,
        recall=recall,
        closeness_before=closeness,
        closeness=closeness,
        changed=False,
    )


def search_anchors(sizes: Sizes, count: int, limit: float, *, seed: int = 0) -> Sizes:
    """Return ``count`` anchors (count, 2) by area: k-means centres, then improved by mutation."""
    rng = np.random.default_rng(seed)
    voters = sizes[(sizes >= SMALLEST_SIDE).all(axis=1)]
    if len(voters) < count:
        voters = np.maximum(sizes, SMALLEST_SIDE)
    if len(voters) > MOST_VOTERS:
        voters = rng.choice(voters, MOST_VOTERS, replace=False)
    spread = voters.std(axis=0)
    spread[spread == 0] = 1.0
    best = _kmeans(voters / spread, count, rng) * spread
    fitness = _fitness(voters, best, limit)
    for _ in range(MUTATIONS):
        mutant = np.maximum(best * _mutation(best.shape, rng), SMALLEST_SIDE)
        mutant_fitness = _fitness(voters, mutant, limit)
        if mutant_fitness > fitness:
            best, fitness = mutant, mutant_fitness
    ordered: Sizes = best[np.argsort(best.prod(axis=1), kind="stable")]
    return ordered


def _closeness(sizes: Sizes, anchors: Sizes) -> Sizes:
    """Return (n,) in 0..1: over anchors, the best of the worse side's ratio; 1 is an exact fit."""
    ratio = sizes[:, None] / anchors[None]
    best: Sizes = np.minimum(ratio, 1 / ratio).min(axis=2).max(axis=1)
    return best


def _fitness(sizes: Sizes, anchors: Sizes, limit: float) -> float:
    """Return the mean closeness, counting 0 for boxes that no anchor fits."""
    best = _closeness(sizes, anchors)
    return float(np.where(best > 1 / limit, best, 0.0).mean())


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> Sizes:
    """Return factors of about 0.9..1.1 for nine in ten entries, 1 for the rest, never all 1."""
    while True:
        chosen = rng.random(shape) < 0.9
        factors = np.where(chosen, 1 + rng.normal(0, 0.1, shape) * rng.random(), 1.0)
        if (factors != 1).any():
            clipped: Sizes = np.clip(factors, 0.3, 3.0)
            return clipped


def _kmeans(points: Sizes, count: int, rng: np.random.Generator, rounds: int = 30) -> Sizes:
    """Lloyd's algorithm from k-means++ seeds (Arthur and Vassilvitskii, 2007)."""
    centres = points[rng.integers(len(points))][None]
    while len(centres) < count:
        distance = ((points[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1)
        total = distance.sum()
        weights = distance / total if total > 0 else None  # all points are centres already
        centres = np.concatenate((centres, points[rng.choice(len(points), p=weights)][None]))
    for _ in range(rounds):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.stack(
            [points[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i] for i in range(count)]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    result: Sizes = centres
    return result


def _as_rows(anchors: Sizes) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in anchors.reshape(len(anchors), -1))
