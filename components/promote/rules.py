"""The rules of promotion, each a pure function of a `Case`.

A rule says PASS, FAIL, or INSUFFICIENT: the data at hand cannot tell. What it weighs is configured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.promote.case import Case, Comparison
from components.promote.config import SIZES
from yolo_core.metrics.bootstrap import FEWEST_IMAGES, Difference

Verdict = Literal["PASS", "FAIL", "INSUFFICIENT"]
PASS: Verdict = "PASS"
FAIL: Verdict = "FAIL"
INSUFFICIENT: Verdict = "INSUFFICIENT"
_TINY = 1e-9  # figures are decimal texts, and 0.90 - 0.01 is not 0.89 in binary
_PARITY = ("ap_difference", "matched", "max_box_error", "max_score_error")  # of an export's row
_NAMED = 6  # classes that a sentence names
_VALIDATED = {True: PASS, False: FAIL}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule says: ``text`` is a sentence with the figures, ``figures`` the offenders one by one."""

    verdict: Verdict
    text: str
    figures: tuple[Mapping[str, Any], ...] = ()


def ap_not_worse(case: Case) -> Finding:
    """The AP is no more than ``max_ap_drop`` below the champion's.

    PASS where the whole interval lies above that limit; FAIL where the figure lies below it and the whole
    interval below 0; else the images cannot tell.
    """
    margin = case.config.max_ap_drop
    compared = case.comparison
    if compared is None:
        return Finding(verdict=INSUFFICIENT, text=case.obstacle)
    change = compared.overall.ap
    said = (
        f"AP {100 * change.value:+.2f} points to the champion's, {case.config.level:.0%} interval "
        f"{100 * change.low:+.2f} to {100 * change.high:+.2f}, limit {-100 * margin:+.2f}"
    )
    figure = {"difference": change.value, "low": change.low, "high": change.high, "limit": -margin}
    if change.images < FEWEST_IMAGES:
        text = f"{said}; {change.images} images with truths are too few, {FEWEST_IMAGES} are needed"
        return Finding(verdict=INSUFFICIENT, text=text, figures=(figure,))
    if change.value < -margin - _TINY and change.high < 0:
        return Finding(verdict=FAIL, text=said, figures=(figure,))
    if change.low >= -margin - _TINY:
        return Finding(verdict=PASS, text=said, figures=(figure,))
    return Finding(verdict=INSUFFICIENT, text=f"{said}; {_remedy(change, margin)}", figures=(figure,))


def class_drop(case: Case) -> Finding:
    """No class surely lost, and lost more than ``max_class_drop``; every class of the champion is known."""
    compared, limit = case.comparison, case.config.max_class_drop
    if compared is None:
        return Finding(verdict=INSUFFICIENT, text=case.obstacle)
    if compared.lost:
        lost = tuple({"class": name} for name in compared.lost)
        text = f"the challenger does not know {_listed(compared.lost)}, which the champion finds"
        return Finding(verdict=FAIL, text=text, figures=lost)
    rows = [(name, change) for name, change in zip(compared.names, compared.classes.class_ap, strict=True)]
    judged = [(name, change) for name, change in rows if change and change.images >= FEWEST_IMAGES]
    if not judged:
        text = f"no class is in {FEWEST_IMAGES} images or more, so nothing can be said of any"
        return Finding(verdict=INSUFFICIENT, text=text)
    fallen = [(name, change) for name, change in judged if change.value < -limit - _TINY]
    lost_ap = [(name, change) for name, change in fallen if change.verdict == "lose"]
    if lost_ap:
        drops = ", ".join(f"{name} {100 * change.value:+.1f}" for name, change in lost_ap[:_NAMED])
        text = f"{len(lost_ap)} of {len(rows)} classes lost more than {100 * limit:.1f} points: {drops}"
        return Finding(verdict=FAIL, text=text, figures=tuple(_drop(*row) for row in lost_ap))
    return Finding(verdict=PASS, text=_kept(compared, len(judged), fallen, limit))


def size_drop(case: Case) -> Finding:
    """Neither small, medium nor large objects lost more than ``max_size_drop`` of AP."""
    limit = case.config.max_size_drop
    if case.comparison is None or case.champion is None:
        return Finding(verdict=INSUFFICIENT, text=case.obstacle)
    changes = {}
    for size in SIZES:
        ours, theirs = case.challenger.sizes.get(size), case.champion.sizes.get(size)
        if ours is not None and theirs is not None and ours.ap is not None and theirs.ap is not None:
            changes[size] = ours.ap - theirs.ap
    if not changes:
        return Finding(verdict=INSUFFICIENT, text="AP by size is not known of both versions")
    said = ", ".join(f"{size} {100 * change:+.2f}" for size, change in changes.items())
    fallen = {size: change for size, change in changes.items() if change < -limit - _TINY}
    return Finding(
        verdict=FAIL if fallen else PASS,
        text=f"AP by size to the champion's: {said} points, limit {-100 * limit:+.2f}",
        figures=tuple({"size": size, "difference": change} for size, change in fallen.items()),
    )


def ap_floor(case: Case) -> Finding:
    """The AP reaches ``min_ap``."""
    aps = case.challenger.class_ap
    if not aps:
        return Finding(verdict=INSUFFICIENT, text="the split has no truths, so there is no AP")
    ap, floor = sum(aps.values()) / len(aps), case.config.min_ap
    return Finding(
        verdict=PASS if ap + _TINY >= floor else FAIL,
        text=f"AP {100 * ap:.2f} %, at least {100 * floor:.2f} % is asked",
        figures=({"ap": ap, "floor": floor},),
    )


def class_floor(case: Case) -> Finding:
    """Every class reaches ``min_class_ap``, or what ``class_floors`` says of it."""
    config, aps = case.config, case.challenger.class_ap
    unknown = [name for name in config.class_floors if name not in case.challenger.names]
    if unknown:
        text = f"class_floors names {_listed(unknown)}, which the challenger does not know"
        return Finding(verdict=FAIL, text=text, figures=tuple({"class": name} for name in unknown))
    unseen = [name for name in config.class_floors if name not in aps]
    floors = {name: config.class_floors.get(name, config.min_class_ap) for name in aps}
    low: list[dict[str, Any]] = [
        {"class": name, "ap": ap, "floor": floors[name]}
        for name, ap in aps.items()
        if _below(ap, floors[name])
    ]
    if low:
        said = ", ".join(
            f"{row['class']} {100 * row['ap']:.1f} < {100 * row['floor']:.1f} %" for row in low[:_NAMED]
        )
        text = f"{len(low)} of {len(aps)} classes are below their floor: {said}"
        return Finding(verdict=FAIL, text=text, figures=tuple(low))
    if unseen or not aps:
        text = f"no image holds {_listed(unseen) if unseen else 'any class'}, so the floor cannot be checked"
        return Finding(verdict=INSUFFICIENT, text=text)
    worst = min(aps, key=lambda name: aps[name])
    return Finding(
        verdict=PASS,
        text=f"all {len(aps)} classes reach their floor; the worst, {worst}, has {100 * aps[worst]:.2f} %",
    )


def size_floor(case: Case) -> Finding:
    """Small, medium and large objects reach what ``size_floors`` says of them."""
    floors = case.config.size_floors
    if not floors:
        return Finding(verdict=PASS, text="no floor is set for any size")
    known = {size: case.challenger.sizes[size].ap for size in floors if size in case.challenger.sizes}
    low = {size: ap for size, ap in known.items() if ap is not None and _below(ap, floors[size])}
    if low:
        said = ", ".join(f"{size} {100 * ap:.2f} < {100 * floors[size]:.2f} %" for size, ap in low.items())
        figures = tuple({"size": size, "ap": ap, "floor": floors[size]} for size, ap in low.items())
        return Finding(verdict=FAIL, text=f"below the floor: {said}", figures=figures)
    unseen = [size for size in floors if known.get(size) is None]
    if unseen:
        return Finding(verdict=INSUFFICIENT, text=f"no AP is known of {_listed(unseen)} objects")
    said = ", ".join(f"{size} {100 * (ap or 0):.2f} %" for size, ap in known.items())
    return Finding(verdict=PASS, text=f"AP by size reaches its floors: {said}")


def latency(case: Case) -> Finding:
    """The named backend takes at most ``max_latency_ms`` per image."""
    name, limit = case.config.latency_backend, case.config.max_latency_ms
    if limit is None:
        return Finding(verdict=PASS, text="no limit is set")
    known = latencies(case.challenger.facts)
    if name not in known:
        text = f"{name} was not timed; timed are {', '.join(known) or 'no backends'}"
        return Finding(verdict=INSUFFICIENT, text=text)
    taken = known[name]
    return Finding(
        verdict=PASS if taken <= limit else FAIL,
        text=f"{name} takes {taken:.2f} ms per image, at most {limit:.2f} is asked",
        figures=({"backend": name, "milliseconds": taken, "limit": limit},),
    )


def parity(case: Case) -> Finding:
    """No export differs from PyTorch, by the verdict of the export stage, and one at least is proven not to.

    What could not be judged, as it does not run where it was made, is told: nothing takes it for proven.
    """
    rows = (case.challenger.facts.get("export") or {}).get("formats") or {}
    verdicts = {name: str(row.get("verdict", "unknown")) for name, row in rows.items()}
    failed = [name for name, verdict in verdicts.items() if verdict == FAIL]
    if failed:
        figures = tuple({"format": name, **_parity_figures(rows[name])} for name in failed)
        reasons = "; ".join(f"{name}: {_reasons(rows[name])}" for name in failed)
        return Finding(verdict=FAIL, text=f"exports differ from PyTorch: {reasons}", figures=figures)
    proven = [name for name, verdict in verdicts.items() if verdict == PASS]
    told = "; ".join(f"not judged, {name}: {_reasons(rows[name])}" for name in verdicts if name not in proven)
    if not proven:
        return Finding(verdict=INSUFFICIENT, text=told or "nothing was exported")
    text = f"exports agree with PyTorch: {', '.join(proven)}"
    return Finding(verdict=PASS, text=f"{text}; {told}" if told else text)


def validation(case: Case) -> Finding:
    """The dataset passed validation."""
    found = (case.challenger.facts.get("data") or {}).get("validation") or {}
    passed = found.get("passed")
    if not isinstance(passed, bool):
        return Finding(verdict=INSUFFICIENT, text="nothing says whether the dataset passed validation")
    rules = [row for row in found.get("failed_rules") or () if row.get("severity") == "block"]
    said = (
        "the dataset passed"
        if passed
        else f"the dataset failed {_listed([str(row['rule']) for row in rules])}"
    )
    return Finding(verdict=_VALIDATED[passed], text=said, figures=() if passed else tuple(rules))


def data(case: Case) -> Finding:
    """The split holds ``min_images`` images, and ``min_instances`` boxes of each class."""
    one, config = case.challenger, case.config
    few = {name: count for name, count in one.boxes.items() if count < config.min_instances}
    text = f"{one.images} images of {one.split}, {sum(one.boxes.values())} boxes"
    if one.images >= config.min_images and not few:
        return Finding(verdict=PASS, text=text)
    asked = [f"{config.min_images} images are asked"] if one.images < config.min_images else []
    if few:
        said = _listed([f"{name} ({count})" for name, count in few.items()])
        asked.append(f"classes with fewer than {config.min_instances} boxes: {said}")
    figures = tuple({"class": name, "boxes": count} for name, count in few.items())
    return Finding(verdict=INSUFFICIENT, text=f"{text}; {'; '.join(asked)}", figures=figures)


RULES: dict[str, Callable[[Case], Finding]] = {
    "ap": ap_not_worse,
    "class_drop": class_drop,
    "size_drop": size_drop,
    "ap_floor": ap_floor,
    "class_floor": class_floor,
    "size_floor": size_floor,
    "latency": latency,
    "parity": parity,
    "validation": validation,
    "data": data,
}


def latencies(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return milliseconds per image by backend, "pytorch" among them, of a version's evidence.

    They are the model's alone; of formats that hold more than the model, from picture to detections.
    """
    export = facts.get("export") or {}
    taken = {"pytorch": export.get("pytorch_latency_ms")}
    for name, row in (export.get("formats") or {}).items():
        alone = row.get("latency_ms")
        taken[name] = row.get("detect_ms") if alone is None else alone
    return {name: float(value) for name, value in taken.items() if value is not None}


def _below(ap: float, floor: float) -> bool:
    return ap + _TINY < floor


def _remedy(change: Difference, margin: float) -> str:
    """Say what would let the interval decide: its ends come nearer with the root of the number of images."""
    room = change.value + margin
    if room <= 0:
        return "more images would tell"
    needed = change.images * ((change.value - change.low) / room) ** 2
    return f"some {max(needed, change.images + 1):,.0f} images like these {change.images:,} would tell"


def _kept(compared: Comparison, judged: int, fallen: list[tuple[str, Difference]], limit: float) -> str:
    text = f"none of {judged} classes surely lost more than {100 * limit:.1f} points"
    if fallen:
        drops = ", ".join(f"{name} {100 * change.value:+.1f}" for name, change in fallen[:_NAMED])
        text += f"; measured lower, but it may be chance: {drops}"
    few = sum(change is not None for change in compared.classes.class_ap) - judged
    return text + (f"; {few} are in too few images to tell" if few else "")


def _drop(name: str, change: Difference) -> dict[str, Any]:
    return {"class": name, "difference": change.value, "low": change.low, "high": change.high}


def _parity_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("reasons", *_PARITY) if row.get(name) is not None}


def _reasons(row: Mapping[str, Any]) -> str:
    """Say why an export has its verdict: in the words of its report, else by its figures."""
    given = row.get("reasons")
    if isinstance(given, (list, tuple)) and given:
        return ", ".join(map(str, given))
    said = [f"{name} {row[name]:.4g}" for name in _PARITY if isinstance(row.get(name), (int, float))]
    return ", ".join(said) or "see the export report"


def _listed(names: Any) -> str:
    shown = [str(name) for name in names]
    more = f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    return ", ".join(shown[:_NAMED]) + more
