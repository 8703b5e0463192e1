"""The ``validate`` section of params.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from components.validate.rules import FEATURES, RULE_NAMES, SEVERITIES

AUTO = "auto"
SPLITS = ("train", "val", "test")  # as in yolo_core.data.coco, which takes too long to import for a check
_MOST_BITS = 16  # of a hash that may differ; see yolo_core.data.phash
_POSITIVE = ("box_tolerance", "min_box_side", "max_times_rarer", "drop_budget")
_SHARES = ("duplicate_iou", "max_unlabelled", "max_split_distance")


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """How strict the checks are.

    Attributes:
        box_tolerance: pixels that a box may reach past its image.
        min_box_side: pixels that a box's shorter side should have at least.
        duplicate_iou: two boxes of a class that overlap by this IoU, 0..1, are the same object twice.
        near_duplicate_bits: images whose perceptual hashes differ in so many of 64 bits look the same.
        min_instances: split -> boxes, crowds left out, that each class should have there.
        max_times_rarer: how many times fewer boxes than the largest class a class may have in training.
        max_unlabelled: share of a split's images, 0..1, that may be without boxes.
        max_split_distance: Jensen-Shannon distance, 0..1, that another split may have from training.
        max_drift: property -> Jensen-Shannon distance, 0..1, that training images may have from the
            champion's; properties are those of statistics.py, and one left out is not compared.
        champion: the registered model whose champion's data are compared with; ``auto`` takes the
            newest champion among the models of the experiment, null none.
        drop_budget: percent of the images that may be set aside for faults that block.
        severity: rule name -> block, warn or off, where it is not to be the rule's own; see rules.py.
    """

    box_tolerance: float
    min_box_side: float
    duplicate_iou: float
    near_duplicate_bits: int
    min_instances: dict[str, int]
    max_times_rarer: float
    max_unlabelled: float
    max_split_distance: float
    max_drift: dict[str, float]
    champion: str | None
    drop_budget: float
    severity: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse limits out of range, and rules, splits, properties and severities that there are not."""
        for name in _POSITIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        limits = {name: getattr(self, name) for name in _SHARES}
        limits |= {f"max_drift.{name}": value for name, value in self.max_drift.items()}
        for name, value in limits.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be within 0..1, not {value}")
        if not 0 <= self.near_duplicate_bits <= _MOST_BITS:
            raise ValueError(f"near_duplicate_bits must be within 0..16, not {self.near_duplicate_bits}")
        _check_keys("min_instances", self.min_instances, SPLITS, "split")
        _check_keys("max_drift", self.max_drift, FEATURES, "property")
        _check_keys("severity", self.severity, RULE_NAMES, "rule")
        for split, count in self.min_instances.items():
            if count < 0:
                raise ValueError(f"min_instances.{split} must not be negative, not {count}")
        for rule, severity in self.severity.items():
            if severity not in SEVERITIES:
                raise ValueError(f"severity.{rule} must be {', '.join(SEVERITIES)}, not {severity!r}")


def _check_keys(where: str, given: Iterable[str], known: tuple[str, ...], kind: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"{where}.{key} is no {kind}; {hint}")
