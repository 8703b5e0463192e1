"""What kinds of error cost how much AP.

The kinds and the idea of fixing one at a time are those of Bolya et al., "TIDE: A General Toolbox for
Identifying Object Detection Errors", ECCV 2020, at the paper's thresholds, .5 and .1.
A false positive, by its largest IoU with a truth:

- duplicate: .5 or more with a truth of its class, which a better scored detection has found
- localisation: .1 to .5 with a truth of its class
- class: .5 or more with a truth of another class
- both: .1 to .5 with a truth of another class
- background: less than .1 with every truth

The first that fits, in this order: the paper leaves open what a detection is that fits two. A truth is missed
if no detection finds it and none has a class or localisation error about it. What lies on a crowd of its
class is no error, and crowds are no truths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yolo_core.metrics.average_precision import Bools, Floats, Ints
from yolo_core.metrics.bootstrap import average_precisions
from yolo_core.metrics.coco_matching import NOTHING, CocoMatches, ImageTruth, match_images, overlaps

FOREGROUND, BACKGROUND = 0.5, 0.1
Kind = Literal["localisation", "class", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = ("localisation", "class", "both", "duplicate", "background", "missed")


@dataclass(frozen=True, kw_only=True, slots=True)
class KindOfError:
    """How often a kind occurs, and how much AP50, in 0..1, would be won were it fixed."""

    count: int
    ap_loss: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ErrorBreakdown:
    """Every error of a detector on a set of images.

    Attributes:
        ap50: COCO's AP at IoU .5 with the errors, over the classes that have truths.
        kinds: of each kind, in the order of `KINDS`.
        rows: (n,) detections that are errors, as positions among all that were given, image after image.
        row_kinds: (n,) their kinds as indices into `KINDS`.
        missed: by image, the indices of its missed truths.
    """

    ap50: float
    kinds: dict[Kind, KindOfError]
    rows: Ints
    row_kinds: Ints
    missed: tuple[Ints, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Verdicts:
    """What each matched detection is, and which truths are missed.

    Attributes:
        kind: (n,) index into `KINDS`; `NOTHING`: no error.
        target: (n,) the truth that the detection finds, or that its error is about; negative: none.
        missed: by image, indices of truths.
    """

    kind: Ints
    target: Ints
    missed: tuple[Ints, ...]


def error_breakdown(
    truths: Sequence[ImageTruth], detections: Sequence[NDArray[np.floating]], classes: int
) -> ErrorBreakdown:
    """Sort the errors of every image's (n, 6) detections: xyxy, score, class index.

    Counts are of all detections given (the best 100 of a class in an image): leave out those below the score
    from which the detector is used, if that is what is to be told. Fixed means:

    - localisation, class: the detection finds its truth; of several at one truth the best scored stays
    - both, duplicate, background: the detection is gone
    - missed: the truth need not be found; a class without another truth then has an AP of 1

    Raises:
        DataError: as `match_images`.
    """
    matches = match_images(truths, detections, classes, np.array([FOREGROUND]))
    rows = np.concatenate([np.zeros((0, 6)), *(np.asarray(found, float) for found in detections)])[
        matches.row
    ]
    verdicts = _judge(truths, matches, rows)
    before = _ap50(matches)
    # A class without truths has no AP, whatever is fixed.
    held = ~np.isnan(before)
    counts = [int((verdicts.kind == number).sum()) for number in range(len(KINDS) - 1)]
    after = [_fixed(truths, matches, verdicts, number) for number in range(len(KINDS) - 1)]
    counts.append(sum(map(len, verdicts.missed)))
    after.append(_without_missed(truths, matches, verdicts.missed))
    wrong = np.flatnonzero(verdicts.kind != NOTHING)
    return ErrorBreakdown(
        ap50=float(before[held].mean()) if held.any() else 0.0,
        kinds={
            kind: KindOfError(count=count, ap_loss=float((ap - before)[held].mean()) if held.any() else 0.0)
            for kind, count, ap in zip(KINDS, counts, after, strict=True)
        },
        rows=matches.row[wrong],
        row_kinds=verdicts.kind[wrong],
        missed=verdicts.missed,
    )


def _judge(truths: Sequence[ImageTruth], matches: CocoMatches, rows: Floats) -> _Verdicts:
    """Find the kind and the target of every detection; ``rows`` are (n, 6), in the order of ``matches``."""
    target = matches.truth[:, 0].astype(np.int64)
    kind = np.full(len(target), NOTHING)
    missed: list[Ints] = []
    excused = (NOTHING, KINDS.index("class"), KINDS.index("localisation"))
    by_image = np.argsort(matches.image, kind="stable")
    borders = np.searchsorted(matches.image[by_image], np.arange(len(truths) + 1))
    for truth, first, last in zip(truths, borders[:-1], borders[1:], strict=True):
        of_image = by_image[first:last]
        wrong = of_image[target[of_image] == NOTHING]
        kind[wrong], target[wrong] = _sort(truth, rows[wrong], matches.label[wrong])
        touched = target[of_image[np.isin(kind[of_image], excused)]]
        missed.append(np.setdiff1d(np.flatnonzero(~truth.crowd), touched))
    return _Verdicts(kind=kind, target=target, missed=tuple(missed))


def _sort(truth: ImageTruth, rows: Floats, labels: Ints) -> tuple[Ints, Ints]:
    """Kinds of an image's (n, 6) false positives, and the truths that they are about (`NOTHING`: none)."""
    overlap = overlaps(rows, truth.boxes, truth.crowd) * ~truth.crowd
    same = labels[:, None] == truth.classes[None, :]
    own, other = overlap * same, overlap * ~same
    best, best_other = own.max(1, initial=0), other.max(1, initial=0)
    choices: list[tuple[Kind, Bools, Floats]] = [
        ("duplicate", best >= FOREGROUND, own),
        ("localisation", best >= BACKGROUND, own),
        ("class", best_other >= FOREGROUND, other),
        ("both", best_other >= BACKGROUND, other),
    ]
    kind, target = np.full(len(rows), KINDS.index("background")), np.full(len(rows), NOTHING)
    for name, fits, table in reversed(choices):
        kind[fits] = KINDS.index(name)
        target[fits] = table[fits].argmax(1) if fits.any() else NOTHING
    return kind, target


def _fixed(truths: Sequence[ImageTruth], matches: CocoMatches, verdicts: _Verdicts, kind: int) -> Floats:
    """(classes,) AP50 with one kind of false positive fixed."""
    fixed = verdicts.kind == kind
    found, label = matches.truth[:, 0].copy(), matches.label.copy()
    if KINDS[kind] in ("localisation", "class"):
        place = np.flatnonzero(fixed)
        found[place] = verdicts.target[place]
        label[place] = [truths[matches.image[row]].classes[found[row]] for row in place]
        kept = _best_of_each_truth(matches, found)
    else:
        kept = ~fixed
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-matches.score[order], label[order]))]
    return _ap50(
        replace(
            matches,
            row=matches.row[order],
            image=matches.image[order],
            label=label[order],
            score=matches.score[order],
            truth=found[order, None],
        )
    )


def _best_of_each_truth(matches: CocoMatches, found: NDArray[np.int32]) -> Bools:
    """Which detections stay where several find one truth: the best scored; those that find none all do."""
    kept = found < 0
    finders = np.flatnonzero(~kept)
    finders = finders[np.argsort(-matches.score[finders], kind="stable")]
    pairs = np.column_stack((matches.image[finders], found[finders]))
    _, first = np.unique(pairs, axis=0, return_index=True)
    kept[finders[first]] = True
    return kept


def _without_missed(truths: Sequence[ImageTruth], matches: CocoMatches, missed: Sequence[Ints]) -> Floats:
    """(classes,) AP50 if missed truths need not be found."""
    counts = matches.truth_counts.copy()
    for image, (truth, which) in enumerate(zip(truths, missed, strict=True)):
        np.subtract.at(counts[image], truth.classes[which], 1)
    ap = _ap50(replace(matches, truth_counts=counts))
    return np.where(np.isnan(ap), 1.0, ap)


def _ap50(matches: CocoMatches) -> Floats:
    """(classes,) COCO's AP at the one threshold of the matches; NaN without truths."""
    return average_precisions(matches, np.ones((1, len(matches.truth_counts)), np.int32))[0, :, 0]
