"""Planted errors are told by their kind, and fixing one kind wins what taking the plants away wins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.errors import DataError
from yolo_core.metrics.bootstrap import average_precisions
from yolo_core.metrics.coco_matching import ImageTruth, match_images
from yolo_core.metrics.error_breakdown import KINDS, ErrorBreakdown, Kind, error_breakdown

CLASSES = 3
SIDE = 20.0
CELL = 100  # pixels between truths, so that no plant touches two
Plant = Kind | None  # None: a truth that is found


def plant(kinds: list[Plant], seed: int = 0) -> tuple[ImageTruth, np.ndarray, list[Kind]]:
    """A row of truths with one error each; the detections, and what the ones beyond the right ones are."""
    rng = np.random.default_rng(seed)
    boxes, classes, rows, planted = [], [], [], []
    for cell, kind in enumerate(kinds):
        x, label = cell * CELL + 20.0, int(rng.integers(CLASSES))
        box, other = [x, 20.0, x + SIDE, 20.0 + SIDE], (label + 1) % CLASSES
        far = [x + 10, 20.0, x + 10 + SIDE, 20.0 + SIDE]  # IoU 1/3
        score = float(rng.uniform(0.5, 0.9))
        if kind != "background":
            boxes.append(box)
            classes.append(label)
        if kind in (None, "duplicate"):
            rows.append([*box, score, label])
        wrong = {
            "duplicate": [*box, score - 0.3, label],
            "localisation": [*far, score, label],
            "class": [*box, score, other],
            "both": [*far, score, other],
            "background": [*box, score, label],
        }
        if kind is not None:
            planted.append(kind)
            if kind != "missed":
                rows.append(wrong[kind])
    truth = ImageTruth(
        boxes=np.array(boxes).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        crowd=np.zeros(len(boxes), bool),
    )
    return truth, np.array(rows).reshape(-1, 6), planted


def counts(result: ErrorBreakdown) -> dict[str, int]:
    return {kind: error.count for kind, error in result.kinds.items()}


def ap50(truths: list[ImageTruth], found: list[np.ndarray], classes: int = CLASSES) -> float:
    matches = match_images(truths, found, classes, np.array([0.5]))
    return float(np.nanmean(average_precisions(matches, np.ones((1, len(truths)), np.int32))))


PLANTS = st.lists(st.lists(st.sampled_from((None, *KINDS)), max_size=12), min_size=1, max_size=4)


@settings(max_examples=60)
@given(images=PLANTS, seed=st.integers(0, 99))
def test_planted_errors_are_counted_by_kind(images: list[list[Plant]], seed: int) -> None:
    scenes = [plant(kinds, seed + number) for number, kinds in enumerate(images)]
    result = error_breakdown([scene[0] for scene in scenes], [scene[1] for scene in scenes], CLASSES)
    planted = [kind for scene in scenes for kind in scene[2]]
    expected = {kind: planted.count(kind) for kind in KINDS}
    expected["missed"] += expected["both"]  # neither place nor class is right, so the truth is missed too
    assert counts(result) == expected
    assert len(result.rows) == sum(expected.values()) - expected["missed"]
    assert sum(map(len, result.missed)) == expected["missed"]


@settings(max_examples=40)
@given(images=PLANTS, seed=st.integers(0, 99), kind=st.sampled_from(KINDS))
def test_a_fixed_kind_wins_what_the_same_scene_without_it_has_more(
    images: list[list[Plant]], seed: int, kind: Kind
) -> None:
    """The fixed scene is drawn itself: right boxes and classes for the wrong, none for what is to go."""
    scenes = [plant(kinds, seed + number) for number, kinds in enumerate(images)]
    truths, found = [scene[0] for scene in scenes], [scene[1] for scene in scenes]
    result = error_breakdown(truths, found, CLASSES)
    if not sum(len(truth.classes) for truth in truths):
        assert (result.ap50, result.kinds[kind].ap_loss) == (0, 0)
        return
    assert result.ap50 == pytest.approx(ap50(truths, found), abs=1e-12)
    if kind == "missed":  # has a test of its own
        return
    rows = np.concatenate(found)
    wrong = result.rows[result.row_kinds == KINDS.index(kind)]
    keep = np.ones(len(rows), bool)
    starts = np.cumsum([0, *map(len, found)])
    for row in wrong:
        image = int(np.searchsorted(starts, row, side="right")) - 1
        truth = truths[image]
        if kind in ("localisation", "class"):
            nearest = np.abs(truth.boxes[:, 0] - rows[row, 0]).argmin()
            rows[row, :4], rows[row, 5] = truth.boxes[nearest], truth.classes[nearest]
        else:
            keep[row] = False
    cleaned = [rows[a:b][keep[a:b]] for a, b in pairwise(starts)]
    assert result.kinds[kind].ap_loss == pytest.approx(ap50(truths, cleaned) - result.ap50, abs=1e-12)


def test_rows_and_missed_name_what_is_wrong() -> None:
    first = plant([None, "class", "missed"])
    second = plant(["background", None])
    result = error_breakdown([first[0], second[0]], [first[1], second[1]], CLASSES)
    kinds = {int(row): KINDS[kind] for row, kind in zip(result.rows, result.row_kinds, strict=True)}
    assert kinds == {1: "class", 2: "background"}
    assert [list(which) for which in result.missed] == [[2], []]


def one(boxes: list[list[float]], classes: list[int], crowd: list[bool] | None = None) -> ImageTruth:
    return ImageTruth(
        boxes=np.array(boxes, float),
        classes=np.array(classes),
        crowd=np.array(crowd if crowd else [False] * len(boxes)),
    )


def test_a_misplaced_box_at_a_found_truth_wins_nothing_but_its_removal() -> None:
    truth = one([[0, 0, 20, 20]], [0])
    found = np.array([[10, 0, 30, 20, 0.9, 0], [0, 0, 20, 20, 0.8, 0]], float)
    result = error_breakdown([truth], [found], 1)
    assert result.ap50 == pytest.approx(0.5)
    assert counts(result)["localisation"] == 1 and counts(result)["missed"] == 0
    assert result.kinds["localisation"].ap_loss == pytest.approx(0.5)


def test_of_two_fixed_detections_at_one_truth_one_stays() -> None:
    truth = one([[0, 0, 20, 20], [100, 0, 120, 20]], [0, 0])
    found = np.array([[0, 0, 20, 20, 0.9, 1], [0, 0, 20, 20, 0.8, 2], [100, 0, 120, 20, 0.5, 0]], float)
    result = error_breakdown([truth], [found], 3)
    assert counts(result)["class"] == 2
    assert result.ap50 == pytest.approx(51 / 101)
    assert result.ap50 + result.kinds["class"].ap_loss == pytest.approx(1)


def test_missed_truths_need_not_be_found_when_fixed() -> None:
    truth = one([[0, 0, 20, 20], [100, 0, 120, 20], [200, 0, 220, 20]], [0, 0, 1])
    result = error_breakdown([truth], [np.array([[0, 0, 20, 20, 0.9, 0]])], 3)
    assert counts(result)["missed"] == 2
    assert result.ap50 == pytest.approx((51 / 101 + 0) / 2)
    assert result.kinds["missed"].ap_loss == pytest.approx(1 - result.ap50)


@pytest.mark.parametrize(
    ("overlap", "label", "kind"),
    [
        (0.49, 0, "localisation"),
        (0.11, 0, "localisation"),
        (0.09, 0, "background"),
        (0.51, 1, "class"),
        (0.49, 1, "both"),
        (0.11, 1, "both"),
        (0.09, 1, "background"),
    ],
)
def test_limits_of_iou(overlap: float, label: int, kind: Kind) -> None:
    """A box of the truth's width, and of a share of its height, overlaps it by that share."""
    found = np.array([[0, 0, 100, 100 * overlap, 0.5, label]])
    result = error_breakdown([one([[0, 0, 100, 100]], [0])], [found], 2)
    assert counts(result)[kind] == 1


def test_its_own_class_decides_before_another() -> None:
    """IoU 1 with a truth of another class and 1/3 with one of its own: misplaced, not misnamed."""
    truth = one([[0, 0, 20, 20], [10, 0, 30, 20]], [0, 1])
    result = error_breakdown([truth], [np.array([[0, 0, 20, 20, 0.5, 1]])], 2)
    assert counts(result) == dict.fromkeys(KINDS, 0) | {"localisation": 1, "missed": 1}


def test_what_lies_on_a_crowd_is_no_error_and_a_crowd_is_not_missed() -> None:
    truth = one([[0, 0, 100, 100]], [0], [True])
    found = np.array([[10, 10, 30, 30, 0.9, 0], [10, 10, 30, 30, 0.9, 1]], float)
    result = error_breakdown([truth, one([[0, 0, 9, 9]], [0])], [found, np.zeros((0, 6))], 2)
    assert counts(result) == dict.fromkeys(KINDS, 0) | {"background": 1, "missed": 1}
    assert result.rows.tolist() == [1]


def test_nothing_at_all_is_zero() -> None:
    result = error_breakdown([], [], 2)
    assert result.ap50 == 0 and all(error.ap_loss == error.count == 0 for error in result.kinds.values())


def test_invalid_detections_are_named() -> None:
    with pytest.raises(DataError, match="not finite"):
        error_breakdown([one([[0, 0, 9, 9]], [0])], [np.full((1, 6), np.nan)], 2)
