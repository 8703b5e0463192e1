"""The gate's decision, from recorded facts alone."""

from __future__ import annotations

import pytest

from components.promote.config import PromoteConfig
from components.promote.gate import Candidate, decide
from yolo_core.errors import UsageError

RULE = PromoteConfig(metric="map50", max_drop=0.01, min_value=0.3)


def version(
    value: float, *, number: str = "2", data: str = "sha256:a test", validated: bool = True
) -> Candidate:
    return Candidate(
        version=number, evaluation=data, validated=validated, metrics={"map50": value, "map": value / 2}
    )


CHAMPION = version(0.90, number="1")


@pytest.mark.parametrize(
    ("value", "passed", "words"),
    [
        (0.95, True, "reaches champion 1's 0.9000 less promote.max_drop 0.0100"),
        (0.90, True, "reaches"),
        (0.89, True, "reaches"),  # exactly at the limit, which binary fractions miss
        (
            0.8899,
            False,
            "map50 0.8899 of version 2 is below champion 1's 0.9000 less promote.max_drop 0.0100",
        ),
        (0.10, False, "is below promote.min_value 0.3000"),
    ],
)
def test_against_a_champion(value: float, passed: bool, words: str) -> None:
    decision = decide(version(value), CHAMPION, RULE)
    assert decision.passed is passed
    assert words in decision.reason
    assert (decision.value, decision.champion_value) == (value, 0.90)


@pytest.mark.parametrize(("value", "passed"), [(0.3, True), (0.2999, False)])
def test_the_first_champion_needs_the_least_value(value: float, passed: bool) -> None:
    decision = decide(version(value), None, RULE)
    assert decision.passed is passed
    assert "promote.min_value" in decision.reason


def test_figures_on_other_data_do_not_compare_unless_forced() -> None:
    other = version(0.99, data="sha256:b test")
    refused = decide(other, CHAMPION, RULE)
    assert not refused.passed
    assert "cannot compare" in refused.reason
    assert "--force" in refused.reason
    assert not decide(version(0.99, data="sha256:a val"), CHAMPION, RULE).passed
    assert decide(other, CHAMPION, RULE, force=True).passed
    assert not decide(version(0.1, data="sha256:b test"), CHAMPION, RULE, force=True).passed


def test_unvalidated_data_never_passes() -> None:
    decision = decide(version(0.99, validated=False), CHAMPION, RULE, force=True)
    assert not decision.passed
    assert "did not pass validation" in decision.reason


def test_a_metric_that_was_not_recorded() -> None:
    rule = PromoteConfig(metric="coco_ap", max_drop=0.0, min_value=0.0)
    with pytest.raises(UsageError, match="version 2 has no metric 'coco_ap'; it has map, map50"):
        decide(version(0.9), None, rule)


def test_tags_become_facts() -> None:
    tags = {
        "metric.map50": "0.9",
        "dataset.digest": "sha256:a",
        "evaluation.split": "test",
        "validation": "passed",
        "other": "x",
    }
    assert Candidate.from_tags("2", tags) == Candidate(
        version="2", evaluation="sha256:a test", validated=True, metrics={"map50": 0.9}
    )
    assert not Candidate.from_tags("2", {}).validated


@pytest.mark.parametrize(
    "wrong", [{"metric": "accuracy"}, {"max_drop": -0.1}, {"max_drop": 1.1}, {"min_value": 30.0}]
)
def test_wrong_rules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PromoteConfig(**{"metric": "map50", "max_drop": 0.01, "min_value": 0.3, **wrong})  # type: ignore[arg-type]
