"""Reliability curves of scores that are as right as they say, and of scores that are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.calibration import calibration, reliability
from yolo_core.metrics.coco_matching import ImageTruth, match_images


def test_precision_and_mean_score_of_each_bin() -> None:
    scores = np.array([0.0, 0.1, 0.2, 0.5, 0.6, 0.9, 1.0, 1.0])
    correct = np.array([0, 0, 1, 1, 0, 1, 1, 0], bool)
    curve = reliability(scores, correct, bins=4)
    assert curve.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.counts.tolist() == [3, 0, 2, 3]
    assert curve.score == pytest.approx([0.1, 0, 0.55, 2.9 / 3])
    assert curve.precision == pytest.approx([1 / 3, 0, 0.5, 2 / 3])
    gaps = 3 * (1 / 3 - 0.1) + 2 * 0.05 + 3 * (2.9 / 3 - 2 / 3)
    assert curve.expected_calibration_error == pytest.approx(gaps / 8)


def test_scores_that_mean_what_they_say_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(100_000)
    honest = reliability(scores, rng.random(100_000) < scores)
    boastful = reliability(scores, rng.random(100_000) < scores**2)
    assert honest.expected_calibration_error < 0.01
    assert boastful.expected_calibration_error == pytest.approx(1 / 2 - 1 / 3, abs=0.01)
    assert (boastful.precision < boastful.score).all()


@given(
    rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40),
    bins=st.integers(1, 30),
)
def test_bins_hold_every_detection_once(rows: list[tuple[float, bool]], bins: int) -> None:
    scores, correct = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], bool)
    curve = reliability(scores, correct, bins)
    assert curve.counts.sum() == len(rows)
    assert (curve.counts * curve.precision).sum() == pytest.approx(correct.sum())
    held = curve.counts > 0
    assert (curve.score[held] >= curve.edges[:-1][held] - 1e-9).all()
    assert (curve.score[held] <= curve.edges[1:][held] + 1e-9).all()
    gaps = [
        abs(correct[chosen].sum() - scores[chosen].sum())
        for low, high in zip(curve.edges[:-1], [*curve.edges[1:-1], 2], strict=True)
        if (chosen := (scores >= low) & (scores < high)).any()
    ]
    assert curve.expected_calibration_error == pytest.approx(sum(gaps) / max(len(rows), 1), abs=1e-9)


def test_of_matches_crowds_and_weak_detections_do_not_count() -> None:
    truth = ImageTruth(
        boxes=np.array([[0, 0, 10, 10], [50, 50, 90, 90], [20, 20, 30, 30]], float),
        classes=np.array([0, 0, 1]),
        crowd=np.array([False, True, False]),
    )
    found = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],
            [60, 60, 70, 70, 0.8, 0],  # in the crowd
            [0, 40, 10, 50, 0.7, 0],
            [20, 20, 30, 30, 0.6, 1],
            [0, 0, 10, 10, 0.1, 0],
        ]
    )
    matches = match_images([truth], [found], 2)
    everything = calibration(matches, bins=2)
    assert everything.counts.tolist() == [1, 3]
    assert everything.precision == pytest.approx([0, 2 / 3])
    assert calibration(matches, confidence=0.5, bins=2).counts.tolist() == [0, 3]
    assert calibration(matches, label=1, bins=2).counts.tolist() == [0, 1]


def test_nothing_detected_is_zero() -> None:
    curve = reliability(np.zeros(0), np.zeros(0, bool))
    assert curve.counts.sum() == 0 and curve.expected_calibration_error == 0
    assert curve.precision.tolist() == [0] * 10


def test_wrong_input_is_named() -> None:
    for score in (np.nan, -0.1, 1.1):
        with pytest.raises(DataError, match=r"a score is not a number in 0\.\.1"):
            reliability(np.array([score]), np.array([True]))
    with pytest.raises(DataError, match="1 scores do not go with 2 answers"):
        reliability(np.zeros(1), np.zeros(2, bool))
    with pytest.raises(UsageError, match="at least one bin"):
        reliability(np.zeros(0), np.zeros(0, bool), bins=0)
