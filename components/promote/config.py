"""Section ``promote`` of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

Severity = Literal["block", "warn", "off"]
SIZES = ("small", "medium", "large")
# Of a registered model: what MLflow, a path, a shell and a page all take as one plain word.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,198}[A-Za-z0-9._-])?")


@dataclass(frozen=True, kw_only=True)
class FirstRules:
    """How much each rule weighs for a model without a champion: block, warn or off."""

    ap_floor: Severity
    class_floor: Severity
    size_floor: Severity
    latency: Severity
    parity: Severity
    validation: Severity
    data: Severity


@dataclass(frozen=True, kw_only=True)
class Rules(FirstRules):
    """How much each rule weighs where there is a champion; the further ones compare with it."""

    ap: Severity
    class_drop: Severity
    size_drop: Severity


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """When a challenger may become champion. AP is COCO's, over IoU .5 to .95; all APs are in 0..1.

    Attributes:
        rules, first_rules: what each rule weighs with a champion, and without one.
        insufficient: whether what the data cannot tell blocks, too, or only warns.
        max_ap_drop: how far below the champion's the AP may lie.
        max_class_drop, max_size_drop: the same for each class, and for small, medium and large objects.
        min_ap, min_class_ap: least AP, and least AP of each class; ``class_floors`` sets it by class.
        size_floors: least AP by size: small, medium, large.
        min_images, min_instances: that the split must hold, and boxes of each class in it.
        latency_backend, max_latency_ms: the format whose milliseconds count, and how many it may take; null:
            no limit.
        resamples, level, seed: of the paired bootstrap, as in section compare.
        production_name: registered model that promoted versions are also copied to; null: none.
        audit_experiment: MLflow experiment that keeps the record of all promotions.
    """

    rules: Rules
    first_rules: FirstRules
    insufficient: Literal["block", "warn"]
    max_ap_drop: float
    max_class_drop: float
    max_size_drop: float
    min_ap: float
    min_class_ap: float
    class_floors: Mapping[str, float]
    size_floors: Mapping[str, float]
    min_images: int
    min_instances: int
    latency_backend: str
    max_latency_ms: float | None
    resamples: int
    level: float
    seed: int
    production_name: str | None
    audit_experiment: str

    def __post_init__(self) -> None:
        """Check ranges and names."""
        floors = {f"class_floors.{key}": value for key, value in self.class_floors.items()}
        floors |= {f"size_floors.{key}": value for key, value in self.size_floors.items()}
        for key in ("max_ap_drop", "max_class_drop", "max_size_drop", "min_ap", "min_class_ap"):
            floors[key] = getattr(self, key)
        for key, value in floors.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{key} must be in 0..1, not {value}")
        strange = [key for key in self.size_floors if key not in SIZES]
        if strange:
            raise ValueError(f"size_floors knows {', '.join(SIZES)}, not {strange[0]!r}")
        if self.min_images < 0 or self.min_instances < 0:
            raise ValueError("min_images and min_instances must not be negative")
        if self.max_latency_ms is not None and self.max_latency_ms <= 0:
            raise ValueError(f"max_latency_ms must be positive or null, not {self.max_latency_ms}")
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ValueError("resamples must be 1 or more, and level between 0 and 1")
        if self.production_name is not None:
            check_name(self.production_name)
        if not self.audit_experiment.strip():
            raise ValueError("audit_experiment must not be empty")

    def severities(self, *, first: bool) -> dict[str, Severity]:
        """Return what each rule weighs, for a model without a champion or with one."""
        chosen: FirstRules = self.first_rules if first else self.rules
        return {item.name: getattr(chosen, item.name) for item in fields(chosen)}


def check_name(name: str) -> str:
    """Return the name of a registered model; `ValueError` if it is none."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is no name of a registered model; up to 200 letters, digits, . _ - and blanks are"
        )
    return name
