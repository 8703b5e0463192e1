"""May the pipeline go on? Nothing blocks, or all that does belongs to a few images that are set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.validate.rules import ANNOTATIONS, IMAGES
from components.validate.suite import Outcome
from components.validate.tables import Tables

# Of images that several splits share, only those outside the last of these splits need to go.
_SHARED = ("image_in_one_split", "image_looks_in_one_split")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the outcomes.

    Attributes:
        quarantine: image path -> the rules that block for it.
        images: how many the dataset has.
        budget: percent of them that may be set aside.
        reason: why setting aside does not help, or empty.
    """

    quarantine: Mapping[str, Sequence[str]]
    images: int
    budget: float
    reason: str = ""

    @property
    def percent(self) -> float:
        """How much of the images would be set aside."""
        return 100 * len(self.quarantine) / max(self.images, 1)

    @property
    def passed(self) -> bool:
        """Whether the pipeline may go on."""
        return not self.reason


def judge(outcomes: Sequence[Outcome], tables: Tables, budget: float) -> Verdict:
    """Attribute all that blocks to images, and say whether so many may be set aside."""
    found: dict[str, list[str]] = {}
    beyond: list[str] = []  # rules whose faults belong to no image
    for outcome in outcomes:
        if not outcome.blocks:
            continue
        files = _files(outcome, tables)
        if files is None:
            beyond.append(outcome.rule.name)
        for file in files or ():
            found.setdefault(f"images/{file}", []).append(outcome.rule.name)
    verdict = Verdict(quarantine=found, images=len(tables.images), budget=budget)
    return Verdict(
        quarantine=found, images=verdict.images, budget=budget, reason=_reason(verdict, beyond, tables)
    )


def _files(outcome: Outcome, tables: Tables) -> list[str] | None:
    """Return the files of the images to set aside for a rule, or None if that would not mend it."""
    if outcome.note or outcome.rule.table not in (ANNOTATIONS, IMAGES):
        return None
    table = tables.frame(outcome.rule.table).iloc[list(outcome.rows)]
    if outcome.rule.name in _SHARED:
        table = table[table["gives_way"]]
    if outcome.rule.table == ANNOTATIONS and not table["image_known"].all():
        return None
    files = list(dict.fromkeys(table["file"]))
    return files if all(isinstance(file, str) for file in files) else None


def _reason(verdict: Verdict, beyond: Sequence[str], tables: Tables) -> str:
    if beyond:
        return f"{', '.join(beyond)} cannot be mended by setting images aside"
    count = len(verdict.quarantine)
    if verdict.percent > verdict.budget:
        return (
            f"{count} of {verdict.images} images would have to be set aside, "
            f"{verdict.percent:.2g} %, and validate.drop_budget is {verdict.budget:g} %"
        )
    kept = tables.images[~("images/" + tables.images["file"].astype(str)).isin(set(verdict.quarantine))]
    empty = set(tables.splits["split"]) - set(kept["split"])
    return f"nothing would be left of split {', '.join(sorted(empty))}" if empty else ""
