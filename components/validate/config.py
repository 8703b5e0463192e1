"""The ``validate`` section of params.yaml."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from components.validate.rules import RULE_NAMES, SEVERITIES


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """How strict the checks are.

    Attributes:
        box_tolerance: pixels that a box may reach past its image.
        min_box_side: pixels that a box's shorter side should have at least.
        min_instances: boxes, crowds left out, that each class should have in the training split.
        severity: rule name -> block, warn or off, where it is not to be the rule's own; see rules.py.
    """

    box_tolerance: float
    min_box_side: float
    min_instances: int
    severity: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse negative limits, unknown rules and unknown severities."""
        for name in ("box_tolerance", "min_box_side", "min_instances"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for rule, severity in self.severity.items():
            if rule not in RULE_NAMES:
                close = difflib.get_close_matches(rule, RULE_NAMES, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"rules are {', '.join(RULE_NAMES)}"
                raise ValueError(f"severity.{rule} is no rule; {hint}")
            if severity not in SEVERITIES:
                raise ValueError(f"severity.{rule} must be {', '.join(SEVERITIES)}, not {severity!r}")
