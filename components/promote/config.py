"""Section ``promote`` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

METRICS = ("map50", "map", "precision", "recall", "coco_ap", "coco_ap50")


@dataclass(frozen=True, kw_only=True)
class PromoteConfig:
    """When a challenger may become champion.

    ``metric`` is the figure that decides, of the study's best point: map50, map, precision, recall,
    coco_ap or coco_ap50, each in 0..1. ``max_drop`` is how much below the champion's a challenger's may be;
    ``min_value`` is the least that any champion needs.
    """

    metric: str
    max_drop: float
    min_value: float

    def __post_init__(self) -> None:
        """Check the metric's name and the ranges."""
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {self.metric!r}")
        if not 0.0 <= self.max_drop <= 1.0:
            raise ValueError(f"max_drop must be in 0..1, not {self.max_drop}")
        if not 0.0 <= self.min_value <= 1.0:
            raise ValueError(f"min_value must be in 0..1, not {self.min_value}")
