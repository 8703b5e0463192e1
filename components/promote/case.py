"""What the gates judge: two versions' measured facts, and how their APs differ on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from components.evidence import Evidence
from components.promote.config import PromoteConfig
from yolo_core.errors import DataError
from yolo_core.metrics.bootstrap import (
    ApDifferences,
    BootstrapSettings,
    Resamples,
    average_precisions,
    differences_of,
    resample,
)
from yolo_core.metrics.coco_matching import CocoMatches


@dataclass(frozen=True, kw_only=True)
class SizeFigure:
    """AP of objects of one of COCO's sizes, None where it was not measured, and how many there are."""

    ap: float | None
    boxes: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A version with what it found on a split.

    Attributes:
        version: its number in the registry.
        dataset_digest, split: what it was measured on.
        names: of the classes, as the matches count them.
        matches: of its detections with the truths.
        sizes: AP of small, medium and large objects.
        facts: evidence.json, see `components.evidence`.
        how: in words, where the matches come from.
    """

    version: str
    dataset_digest: str
    split: str
    names: tuple[str, ...]
    matches: CocoMatches
    sizes: Mapping[str, SizeFigure]
    facts: Mapping[str, Any]
    how: str = "measured by its study"

    @classmethod
    def of(cls, version: str, evidence: Evidence) -> Candidate:
        """Read a version's evidence; `DataError` if it lacks what every evidence has."""
        try:
            evaluation = evidence.facts["evaluation"]
            return cls(
                version=version,
                dataset_digest=str(evidence.facts["dataset_digest"]),
                split=str(evaluation["split"]),
                names=evidence.names,
                matches=evidence.matches,
                sizes={row["size"]: _size(row) for row in evaluation.get("per_size") or ()},
                facts=evidence.facts,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"the evidence of version {version} lacks {error}; register the model again"
            ) from None

    @property
    def place(self) -> tuple[str, str]:
        """What must be equal for two versions to have seen the same images."""
        return self.dataset_digest, self.split

    @property
    def images(self) -> int:
        """Images that it was measured on."""
        return len(self.matches.truth_counts)

    @property
    def boxes(self) -> dict[str, int]:
        """Truths of each class, crowds left out."""
        return dict(zip(self.names, self.matches.truth_counts.sum(0).tolist(), strict=True))

    @cached_property
    def class_ap(self) -> dict[str, float]:
        """AP of every class that has truths, in 0..1."""
        table = average_precisions(self.matches, np.ones((1, self.images), np.int32))[0].mean(1)
        return {name: float(ap) for name, ap in zip(self.names, table, strict=True) if not np.isnan(ap)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Challenger minus champion on the same images, of the classes that both know.

    Attributes:
        names: those classes.
        lost: classes that only the champion knows.
        gained: classes that only the challenger knows.
        overall: differences with intervals of the configured level.
        classes: the same, with intervals so wide that all together have that level (Bonferroni).
        boxes: truths of each class of ``names``.
        champion_ap, challenger_ap: by class of ``names``; NaN without truths.
    """

    names: tuple[str, ...]
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    overall: ApDifferences
    classes: ApDifferences
    boxes: tuple[int, ...]
    champion_ap: tuple[float, ...]
    challenger_ap: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """All that a verdict needs.

    Attributes:
        challenger: with its evidence.
        champion: whose evidence is of the same images where there is a comparison; None: there is none.
        comparison: of the two; None without a champion, or where they cannot be compared.
        obstacle: why they cannot, and what would help; empty if they can.
        config: what is asked of a champion.
    """

    challenger: Candidate
    champion: Candidate | None
    comparison: Comparison | None
    obstacle: str
    config: PromoteConfig


def compare(challenger: Candidate, champion: Candidate, config: PromoteConfig) -> Comparison:
    """Compare two versions that saw the same images, draw by draw of the bootstrap.

    Raises:
        DataError: they saw other images, or have no class with truths in common.
    """
    known, wanted = set(challenger.names), set(champion.names)
    names = tuple(name for name in champion.names if name in known)
    settings = BootstrapSettings(resamples=config.resamples, level=config.level, seed=config.seed)
    first, second = (_drawn(one, names, settings) for one in (challenger, champion))
    judged = max(1, int((first.truth_counts > 0).any(0).sum()))
    strict = replace(settings, level=1 - (1 - config.level) / judged)
    return Comparison(
        names=names,
        lost=tuple(name for name in champion.names if name not in known),
        gained=tuple(name for name in challenger.names if name not in wanted),
        overall=differences_of(first, second),
        classes=differences_of(replace(first, settings=strict), replace(second, settings=strict)),
        boxes=tuple(first.truth_counts.sum(0).tolist()),
        champion_ap=tuple(second.table[0].mean(1).tolist()),
        challenger_ap=tuple(first.table[0].mean(1).tolist()),
    )


def _drawn(one: Candidate, names: tuple[str, ...], settings: BootstrapSettings) -> Resamples:
    columns = [one.names.index(name) for name in names]
    if not one.matches.truth_counts[:, columns].any():
        raise DataError("no class that both know has a truth")
    return resample(one.matches, settings).only(columns)


def _size(row: Mapping[str, Any]) -> SizeFigure:
    ap, boxes = row.get("ap"), row.get("instances")
    return SizeFigure(
        ap=None if ap is None or float(ap) < 0 else float(ap), boxes=None if boxes is None else int(boxes)
    )
