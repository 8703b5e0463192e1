"""Whether a challenger may become champion: a pure decision over two versions' recorded facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.promote.config import PromoteConfig
from yolo_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is recorded about a registered version.

    ``evaluation`` names the data that its metrics were measured on: dataset digest and split.
    ``metrics`` are fractions in 0..1; ``validated`` says whether its dataset passed validation.
    """

    version: str
    evaluation: str
    validated: bool
    metrics: Mapping[str, float]

    @classmethod
    def from_tags(cls, version: str, tags: Mapping[str, str]) -> Candidate:
        """Read the tags that registration put on a version."""
        prefix = "metric."
        return cls(
            version=version,
            evaluation=f"{tags.get('dataset.digest', 'unknown')} {tags.get('evaluation.split', '')}".strip(),
            validated=tags.get("validation") == "passed",
            metrics={
                key.removeprefix(prefix): float(value)
                for key, value in tags.items()
                if key.startswith(prefix)
            },
        )

    def value(self, metric: str) -> float:
        """Return a metric, or raise `UsageError` when the version has none of that name."""
        if metric not in self.metrics:
            known = ", ".join(sorted(self.metrics)) or "none"
            raise UsageError(f"version {self.version} has no metric {metric!r}; it has {known}")
        return self.metrics[metric]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The gate's answer: ``passed``, the ``reason`` with the figures, and the figures themselves."""

    passed: bool
    reason: str
    value: float
    champion_value: float | None


def decide(
    challenger: Candidate, champion: Candidate | None, config: PromoteConfig, *, force: bool = False
) -> Decision:
    """Compare a challenger with the champion, if there is one.

    ``force`` lets a challenger pass that was measured on other data than the champion: its figure can
    then only be held against ``min_value``.
    """
    metric = config.metric
    value = challenger.value(metric)
    reference = champion.metrics.get(metric) if champion else None

    def answer(passed: bool, reason: str) -> Decision:
        return Decision(passed=passed, reason=reason, value=value, champion_value=reference)

    if not challenger.validated:
        return answer(False, f"version {challenger.version}: its dataset did not pass validation")
    figure = f"{metric} {value:.4f} of version {challenger.version}"
    if value < config.min_value:
        return answer(False, f"{figure} is below promote.min_value {config.min_value:.4f}")
    if champion is None:
        return answer(
            True, f"{figure} reaches promote.min_value {config.min_value:.4f}; there is no champion yet"
        )
    if champion.evaluation != challenger.evaluation:
        difference = (
            f"{_short(challenger.evaluation)}, champion {champion.version} on {_short(champion.evaluation)}"
        )
        if force:
            return answer(True, f"{figure}, forced: measured on {difference}")
        return answer(
            False,
            f"cannot compare: version {challenger.version} was measured on {difference}; --force overrides",
        )
    reference = champion.value(metric)
    limit = reference - config.max_drop
    against = f"champion {champion.version}'s {reference:.4f} less promote.max_drop {config.max_drop:.4f}"
    # A figure at the limit passes: tags hold decimal texts, and 0.90 - 0.01 is not 0.89 in binary.
    if value + 1e-9 < limit:
        return answer(False, f"{figure} is below {against}")
    return answer(True, f"{figure} reaches {against}")


def _short(evaluation: str) -> str:
    digest, _, split = evaluation.partition(" ")
    return f"dataset {digest[:19]} {split}".strip()
