"""PASS, FAIL or INSUFFICIENT: every rule, and what evidence each needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from yolo_core.export.limits import Enough, Limits, Parity
from yolo_core.export.parity_verdict import Accuracy, decide
from yolo_core.metrics.bootstrap import Difference

LIMITS = Limits(
    max_box_error=0.1, max_score_error=0.001, min_matched=0.99, max_ap_loss=0.003, max_ap50_loss=0.01
)
ENOUGH = Enough(images=50, detections=40, objects=30)
PARITY = Parity(
    images=50,
    max_box_error=0.01,
    mean_box_error=0.001,
    max_score_error=1e-5,
    mean_score_error=1e-6,
    detections=90,
    matched=1.0,
)


def change(value: float, low: float, high: float, images: int = 80) -> Difference:
    return Difference(value=value, mean=value, low=low, high=high, better=0.5, images=images)


def accuracy(difference: Difference, **others: Any) -> Accuracy:
    known: dict[str, Any] = {"images": 80, "objects": 200, "ap": 0.3, "ap50": 0.5}
    known |= {"pytorch_ap": 0.3, "pytorch_ap50": 0.5, "difference50": change(0, 0, 0)}
    return Accuracy(**(known | {"difference": difference} | others))


SAME = accuracy(change(0, 0, 0))


def test_an_equal_export_passes() -> None:
    verdict = decide(PARITY, SAME, LIMITS, ENOUGH)
    assert (verdict.kind, verdict.reasons) == ("PASS", ())


@pytest.mark.parametrize(
    ("difference", "kind", "said"),
    [
        (change(-0.001, -0.0029, 0.001), "PASS", None),
        (change(0.02, 0.01, 0.03), "PASS", None),
        (
            change(-0.02, -0.03, -0.0031),
            "FAIL",
            "AP is lower (-0.0200, interval -0.0300 to -0.0031, limit -0.003)",
        ),
        (
            change(-0.002, -0.01, 0.004),
            "INSUFFICIENT",
            "the interval of the AP difference does not decide "
            "(-0.0020, interval -0.0100 to +0.0040, limit -0.003)",
        ),
    ],
    ids=["within", "better", "beyond", "across"],
)
def test_an_interval_decides_only_as_a_whole(difference: Difference, kind: str, said: str | None) -> None:
    verdict = decide(PARITY, accuracy(difference), LIMITS, ENOUGH)
    assert verdict.kind == kind
    assert verdict.reasons == (() if said is None else (said,))


def test_ap_at_half_overlap_has_a_limit_of_its_own() -> None:
    lost = accuracy(change(0, 0, 0), difference50=change(-0.05, -0.06, -0.04))
    verdict = decide(PARITY, lost, LIMITS, ENOUGH)
    assert verdict.kind == "FAIL"
    assert verdict.reasons == ("AP50 is lower (-0.0500, interval -0.0600 to -0.0400, limit -0.01)",)
    assert decide(PARITY, lost, replace(LIMITS, max_ap50_loss=None), ENOUGH).kind == "PASS"


@pytest.mark.parametrize(
    ("parity", "measured", "said"),
    [
        ({"images": 20}, SAME, "only 20 images were compared (50 are needed)"),
        ({"detections": 3}, SAME, "PyTorch finds only 3 objects in them (40 are needed)"),
        ({}, None, "no image has a truth, so there is no AP"),
        ({}, replace(SAME, objects=4), "AP is of only 4 objects in 80 images (30 in 10 are needed)"),
        ({}, accuracy(change(0, 0, 0, images=9)), "AP is of only 200 objects in 9 images"),
    ],
    ids=["images", "detections", "truths", "objects", "images with objects"],
)
def test_too_little_evidence(parity: dict[str, Any], measured: Accuracy | None, said: str) -> None:
    verdict = decide(replace(PARITY, **parity), measured, LIMITS, ENOUGH)
    assert verdict.kind == "INSUFFICIENT"
    assert verdict.reasons[0].startswith(said)


def test_few_detections_do_not_fail_a_share_but_raw_errors_always_fail() -> None:
    few = replace(PARITY, detections=3, matched=0.5)
    assert decide(few, SAME, LIMITS, ENOUGH).kind == "INSUFFICIENT"
    verdict = decide(replace(few, images=2, max_box_error=7.0), None, LIMITS, ENOUGH)
    assert verdict.kind == "FAIL"
    assert verdict.reasons == ("a box is 7 px off (limit 0.1)",)
    assert decide(replace(PARITY, matched=0.5), SAME, LIMITS, ENOUGH).reasons == (
        "only 50.00% of detections match (limit 99.00%)",
    )


def test_a_loss_on_too_few_truths_does_not_fail() -> None:
    assert (
        decide(PARITY, accuracy(change(-0.2, -0.3, -0.1), objects=5), LIMITS, ENOUGH).kind == "INSUFFICIENT"
    )


def test_every_failed_rule_is_named() -> None:
    bad = replace(PARITY, max_box_error=1.0, max_score_error=float("inf"), matched=0.1)
    verdict = decide(bad, accuracy(change(-0.2, -0.3, -0.1)), LIMITS, ENOUGH)
    assert [reason.split(" (")[0] for reason in verdict.reasons] == [
        "a box is 1 px off",
        "a score is inf off",
        "only 10.00% of detections match",
        "AP is lower",
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_box_error", -1.0, "max_box_error must be 0 or more"),
        ("max_ap_loss", float("nan"), "max_ap_loss must be 0 or more, got nan"),
        ("min_matched", 1.5, r"min_matched must lie in 0\.\.1"),
        ("same_iou", -0.1, r"same_iou must lie in 0\.\.1"),
    ],
)
def test_limits_without_meaning(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LIMITS, **{field: value})


def test_no_evidence_is_not_enough() -> None:
    with pytest.raises(ValueError, match="images must be 1 or more"):
        Enough(images=0, detections=1, objects=1)
