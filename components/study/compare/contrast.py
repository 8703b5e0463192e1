"""Models side by side: how sure each AP is, and which differences are more than chance.

The rule of a verdict, the same for one class and for all: the interval of the difference of AP to the first
model lies above 0 (win) or below it (lose), and ten images or more hold truths; else it is undecided. Models
that saw the same images are compared draw by draw of the bootstrap (`yolo_core.metrics.bootstrap`); others
are drawn independently, which gives wider intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from yolo_core.errors import UsageError
from yolo_core.metrics.bootstrap import (
    FEWEST_IMAGES,
    ApDifferences,
    ApIntervals,
    BootstrapSettings,
    Resamples,
    differences_of,
    intervals_of,
    resample,
)
from yolo_core.metrics.coco_matching import CocoMatches

_PARTS = ("preprocess_ms", "inference_ms", "nms_ms")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Milliseconds per image of preparation, model and suppression together, and how they were taken."""

    total_ms: float
    conditions: str

    @classmethod
    def of(cls, point: Mapping[str, Any], report: Mapping[str, Any]) -> Timing | None:
        """Read one size of a study or a measurement of speed; None if it holds no times."""
        if any(point.get(part) is None for part in _PARTS):
            return None
        settings, place = report.get("settings", {}), report.get("environment", {})
        said = {"batch": point.get("timed_batch_size", settings.get("batch_size"))}
        said |= {"device": settings.get("device"), "threads": place.get("threads")}
        words = [f"{key} {value}" for key, value in said.items() if value is not None]
        words += [str(place[key]) for key in ("gpu", "cpu") if place.get(key)][:1]
        total = point.get("total_ms")
        total = sum(float(point[part]) for part in _PARTS) if total is None else float(total)
        return cls(total_ms=total, conditions=", ".join(words))


@dataclass(frozen=True, kw_only=True, eq=False)
class Contestant:
    """A model with what it found.

    Attributes:
        label: for people, unique in a comparison.
        source: as it was named.
        how: where the detections come from.
        variant, model_digest: what the model is; "unknown" where nothing says.
        dataset, dataset_digest, split: what it was measured on.
        names: of the classes, in the order of their ids.
        image_size: longest side, in pixels.
        settings: of the evaluation: confidence, iou, augment, precision.
        matches: of the detections with the truth.
        reported: further figures of the report: map, map50.
        timing: None if it was not measured.
    """

    label: str
    source: str
    how: str
    variant: str
    model_digest: str
    dataset: str
    dataset_digest: str
    split: str
    names: tuple[str, ...]
    image_size: int
    settings: Mapping[str, Any]
    matches: CocoMatches
    reported: Mapping[str, float]
    timing: Timing | None

    @property
    def place(self) -> tuple[str, str]:
        """What must be equal for models to have seen the same images."""
        return self.dataset_digest, self.split


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """A contestant with its intervals and, unless it is the first, its differences to the first.

    ``speed_ratio`` is how many times as fast as the first it is; None says that this is not known, and
    ``speed_text`` why.
    """

    contestant: Contestant
    intervals: ApIntervals
    difference: ApDifferences | None
    paired: bool
    speed_ratio: float | None
    speed_text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """The whole comparison; the first standing is the one that the others are compared with.

    ``names`` are the classes that all know, ``images`` and ``boxes`` how many of the first one's data hold
    each, ``notes`` what a reader must know.
    """

    standings: tuple[Standing, ...]
    names: tuple[str, ...]
    images: tuple[int, ...]
    boxes: tuple[int, ...]
    settings: BootstrapSettings
    notes: tuple[str, ...]

    @property
    def paired(self) -> bool:
        """Whether all saw the same images."""
        return all(standing.paired for standing in self.standings)


def contrast(contestants: Sequence[Contestant], settings: BootstrapSettings) -> Contrast:
    """Compare models with the first of them; of one alone, tell how sure its AP is.

    Raises:
        UsageError: no model, or no class that all know.
        DataError: a dataset has no truth.
    """
    if not contestants:
        raise UsageError("a comparison needs models")
    contestants = distinct(contestants)
    names = shared_names(contestants)
    drawn = [each.only(_places(one.names, names)) for one, each in _draw(contestants, settings)]
    first = contestants[0]
    standings = []
    for one, draws in zip(contestants, drawn, strict=True):
        paired = one.place == first.place
        ratio, text = speed_ratio(one, first)
        standings.append(
            Standing(
                contestant=one,
                intervals=intervals_of(draws),
                difference=None if one is first else differences_of(draws, drawn[0], paired=paired),
                paired=paired,
                speed_ratio=ratio,
                speed_text=text,
            )
        )
    return Contrast(
        standings=tuple(standings),
        names=names,
        images=tuple(drawn[0].images_with.tolist()),
        boxes=tuple(drawn[0].truth_counts.sum(0).tolist()),
        settings=settings,
        notes=tuple(notes_of(contestants, names)),
    )


def distinct(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Return the contestants with labels that differ: of equal ones the later are numbered."""
    taken: set[str] = set()
    found = []
    for one in contestants:
        label, count = one.label, 1
        while label in taken:
            count += 1
            label = f"{one.label} ({count})"
        taken.add(label)
        found.append(replace(one, label=label))
    return found


def shared_names(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Return the classes that all know, in the first one's order; `UsageError` if there is none."""
    others = [set(one.names) for one in contestants[1:]]
    names = tuple(name for name in contestants[0].names if all(name in known for known in others))
    if not names:
        raise UsageError("the models have no class in common, so there is nothing to compare")
    return names


def speed_ratio(one: Contestant, first: Contestant) -> tuple[float | None, str]:
    """Return how many times as fast as the first a model is, or None, and what there is to say of it."""
    if one.timing is None:
        return None, "not measured"
    if first.timing is None:
        return None, f"first not measured; {one.timing.conditions}"
    if one.timing.conditions != first.timing.conditions:
        return None, f"not comparable: measured under {one.timing.conditions}"
    return first.timing.total_ms / max(one.timing.total_ms, 1e-9), one.timing.conditions


def notes_of(contestants: Sequence[Contestant], names: Sequence[str]) -> list[str]:
    """Return what a reader must know to read the comparison rightly."""
    first, notes = contestants[0], []
    if any(one.place != first.place for one in contestants):
        places = sorted({f"{one.dataset} ({one.split}, {one.dataset_digest[:19]})" for one in contestants})
        notes.append(
            f"NOT THE SAME IMAGES: {' and '.join(places)}. Their intervals are unpaired, and a difference "
            "may be that of the data, not of the models."
        )
    dropped = sorted({name for one in contestants for name in one.names} - set(names))
    if dropped:
        notes.append(f"Only the {len(names)} classes that all know count; left out: {', '.join(dropped)}.")
    for key in ("confidence", "iou", "augment", "precision"):
        said = {one.label: one.settings.get(key) for one in contestants if key in one.settings}
        if len(set(said.values())) > 1:
            values = ", ".join(f"{label} {value}" for label, value in said.items())
            notes.append(f"They were evaluated with different {key}: {values}.")
    known = [one for one in contestants if one.model_digest != "unknown"]
    for index, one in enumerate(known):
        twin = next((other for other in known[:index] if other.model_digest == one.model_digest), None)
        if twin is not None:
            notes.append(f"{one.label} and {twin.label} are the same weights.")
    for one in contestants:
        held = int(one.matches.truth_counts.any(1).sum())
        if held < FEWEST_IMAGES:
            notes.append(f"{one.label}: only {held} images hold truths, too few for any verdict.")
    return notes


def _draw(
    contestants: Sequence[Contestant], settings: BootstrapSettings
) -> list[tuple[Contestant, Resamples]]:
    """Resample each; those on the same images get the same draws, others independent ones."""
    places = list(dict.fromkeys(one.place for one in contestants))
    seeds = {place: replace(settings, seed=settings.seed + number) for number, place in enumerate(places)}
    return [(one, resample(one.matches, seeds[one.place])) for one in contestants]


def _places(known: Sequence[str], wanted: Sequence[str]) -> list[int]:
    return [known.index(name) for name in wanted]
