"""A comparison as JSON, as CSV and as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from components.study.compare.contrast import Contrast, Standing
from yolo_core.metrics.bootstrap import FEWEST_IMAGES, Difference, Interval

ALL = "(all)"  # the row of all classes together; no class has such a name
COLUMNS = (
    *("model", "class", "images", "boxes", "ap", "ap_low", "ap_high", "ap50", "ap50_low", "ap50_high"),
    *("ap_difference", "ap_difference_low", "ap_difference_high", "share_better", "verdict"),
    *("ap50_difference", "ap50_difference_low", "ap50_difference_high", "ap50_share_better", "ap50_verdict"),
)
_DIGITS = 6


def rule(result: Contrast) -> str:
    """Say by what rule a verdict is given."""
    settings = result.settings
    chance = 100 * (1 - settings.level)
    return (
        f"Intervals hold {settings.level:.0%} of {settings.resamples:,} resamples of the images. A model "
        "wins or loses against the first where the interval of its difference does not hold 0 and "
        f"{FEWEST_IMAGES} images or more hold truths; else it is undecided. Each interval stands for itself: "
        f"of 100 classes on which two models are equal, about {chance:.0f} win or lose by chance."
    )


def document(result: Contrast) -> dict[str, Any]:
    """Return the comparison as JSON holds it: accuracies as fractions of 1, milliseconds per image."""
    settings = result.settings
    return {
        "paired": result.paired,
        "resamples": settings.resamples,
        "seed": settings.seed,
        "level": settings.level,
        "rule": rule(result),
        "notes": list(result.notes),
        "models": [_model(standing) for standing in result.standings],
        "classes": [
            {
                "name": name,
                "images": result.images[index],
                "boxes": result.boxes[index],
                "models": [_class(standing, index) for standing in result.standings],
            }
            for index, name in enumerate(result.names)
        ],
    }


def table(result: Contrast) -> str:
    """Return CSV: a row of all classes and one per class, for each model; empty cells where nothing is."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(COLUMNS)
    for standing in result.standings:
        found = standing.contestant.matches.truth_counts
        counts = [int(found.any(1).sum()), int(found.sum())]
        writer.writerow([standing.contestant.label, ALL, *counts, *_cells(standing, None)])
        for index, name in enumerate(result.names):
            counts = [result.images[index], result.boxes[index]]
            writer.writerow([standing.contestant.label, name, *counts, *_cells(standing, index)])
    return target.getvalue()


def text(result: Contrast) -> str:
    """Return the comparison as a table for a terminal, with the rule and the notes below."""
    level = f"{result.settings.level:.0%}"
    head = ("model", f"AP [{level}]", f"AP50 [{level}]", f"AP to first [{level}]", "better in")
    rows = [(*head, "verdict", "ms/image", "speed"), *(_text_row(each) for each in result.standings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    conditions = {each.contestant.timing.conditions for each in result.standings if each.contestant.timing}
    lines += ["", *(f"times: {said}" for said in sorted(conditions)), rule(result), *result.notes]
    return "\n".join(line.rstrip() for line in lines)


def with_interval(interval: Interval, *, signed: bool = False) -> str:
    """Return percentages: value and, in brackets, the ends of the interval."""
    sign = "+" if signed else ""
    value, low, high = (f"{100 * part:{sign}.1f}" for part in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def share(value: float) -> str:
    """Return a share of the resamples in per cent; only what is all of them is shown as 100."""
    return f"{min(100 * value, 99.9) if value < 1 else 100:.3g} %"


def speed(standing: Standing) -> str:
    """Return how many times as fast as the first a model is, or why that is not known."""
    if standing.speed_ratio is not None:
        return f"{standing.speed_ratio:.2f}x"
    return standing.speed_text.split(":")[0].split(";")[0]


def _text_row(standing: Standing) -> tuple[str, ...]:
    one, intervals, difference = standing.contestant, standing.intervals, standing.difference
    timing = one.timing
    against = ("", "", "first")
    if difference is not None:
        ap = difference.ap
        against = (with_interval(ap, signed=True), share(ap.better), ap.verdict)
    return (
        one.label,
        with_interval(intervals.ap),
        with_interval(intervals.ap50),
        *against,
        f"{timing.total_ms:.1f}" if timing else "-",
        speed(standing),
    )


def _model(standing: Standing) -> dict[str, Any]:
    one, intervals, difference = standing.contestant, standing.intervals, standing.difference
    timing = one.timing
    return {
        "label": one.label,
        "source": one.source,
        "detections": one.how,
        "variant": one.variant,
        "model_digest": one.model_digest,
        "dataset": one.dataset,
        "dataset_digest": one.dataset_digest,
        "split": one.split,
        "image_size": one.image_size,
        "settings": dict(one.settings),
        "paired_with_first": standing.paired,
        "ap": _interval(intervals.ap),
        "ap50": _interval(intervals.ap50),
        **{key: round(float(value), _DIGITS) for key, value in one.reported.items()},
        "difference": None
        if difference is None
        else {"ap": _difference(difference.ap), "ap50": _difference(difference.ap50)},
        "total_ms": None if timing is None else round(timing.total_ms, _DIGITS),
        "measured_on": None if timing is None else timing.conditions,
        "speed_ratio": None if standing.speed_ratio is None else round(standing.speed_ratio, _DIGITS),
        "speed": standing.speed_text,
    }


def _class(standing: Standing, index: int) -> dict[str, Any]:
    intervals, difference = standing.intervals, standing.difference
    return {
        "ap": _interval(intervals.class_ap[index]),
        "ap50": _interval(intervals.class_ap50[index]),
        "difference": None
        if difference is None
        else {
            "ap": _difference(difference.class_ap[index]),
            "ap50": _difference(difference.class_ap50[index]),
        },
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {key: round(getattr(interval, key), _DIGITS) for key in ("value", "low", "high")}


def _difference(difference: Difference | None) -> dict[str, Any] | None:
    if difference is None:
        return None
    found: dict[str, Any] = {**(_interval(difference) or {})}
    return {**found, "share_better": round(difference.better, _DIGITS), "verdict": difference.verdict}


def _cells(standing: Standing, index: int | None) -> Iterator[Any]:
    """The columns from ``ap`` on: of a class by its index, of all classes for None."""
    values, changes = standing.intervals, standing.difference
    pairs: list[Interval | None] = [values.ap, values.ap50]
    gaps: list[Difference | None] = [None, None] if changes is None else [changes.ap, changes.ap50]
    if index is not None:
        pairs = [values.class_ap[index], values.class_ap50[index]]
        gaps = [None, None] if changes is None else [changes.class_ap[index], changes.class_ap50[index]]
    for pair in pairs:
        yield from ((_interval(pair) or {}).get(key, "") for key in ("value", "low", "high"))
    for gap in gaps:
        found = _difference(gap) or {}
        yield from (found.get(key, "") for key in ("value", "low", "high", "share_better", "verdict"))
