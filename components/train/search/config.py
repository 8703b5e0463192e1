"""The section ``search`` of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """What ``python -m components search`` tries.

    Attributes:
        trials: how many; the first is the params as they are.
        epochs: length of a trial, with a schedule of its own.
        grace_epochs: before which no trial is stopped.
        reduction: at each rung one trial in so many goes on (ASHA); rungs are at grace_epochs times its
            powers.
        concurrent: trials at a time; auto: as many as the cluster has room for.
        seed: draws the points.
        storage: folder (in the workspace, unless absolute) of unfinished searches.
        space: hyperparameter or key of the section train -> [low, high, linear or log], or a list of choices.
    """

    trials: int
    epochs: int
    grace_epochs: int
    reduction: int
    concurrent: int | Literal["auto"]
    seed: int
    storage: str
    space: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse values out of range; the space is checked when the command runs."""
        for name in ("trials", "epochs", "grace_epochs", "concurrent"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.grace_epochs > self.epochs:
            raise ValueError(f"grace_epochs {self.grace_epochs} is more than epochs {self.epochs}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be at least 2, not {self.reduction}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, but is {self.seed}")
        if not self.space:
            raise ValueError("space must name at least one hyperparameter, such as lr0: [0.001, 0.1, log]")
        if "://" in self.storage or not self.storage:
            raise ValueError(f"storage must be a folder that all trials see, not {self.storage!r}")
