"""Outlines that enclose nothing and objects boxed twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.data.faults import outline_problem, overlaps
from yolo_core.metrics.boxes import pairwise_iou, xywh_to_xyxy

NUMBERS = st.integers(0, 6)


@pytest.mark.parametrize(
    "right",
    [
        None,
        [],
        [[0, 0, 4, 0, 4, 4]],
        [[0, 0, 4, 0, 4, 4], [0, 0, 0, 3, 3, 3]],
        {"size": [3, 4], "counts": "x"},
    ],
)
def test_right_outlines(right: Any) -> None:
    assert outline_problem(right) == ""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("text", "is a str"),
        ([1, 2, 3, 4, 5, 6], "an outline is a int"),
        ([[0, 0, 4, 0, 4, 4], [1, 2]], "an outline has 2 values"),
        ([[0, 0, 4, 0, 4, 4, 1]], "an outline has 7 values"),
        ([[0, 0, 4, 4, 8, 8]], "an outline encloses nothing"),
        ([[0, 0, 4, 0, 4, None]], "an outline holds something other than numbers"),
        ([[0, 0, 4, 0, 4, float("nan")]], "an outline has a point that is not finite"),
        ([[0, 0, 4, 0, 4, 10**400]], "an outline has a point that is not finite"),
        ([[0, 0.5, 4, 0, 4, 10**400]], "an outline has a point that is not finite"),
        ({"size": [3]}, "a run-length mask lacks size or counts"),
    ],
)
def test_wrong_outlines(wrong: Any, said: str) -> None:
    assert outline_problem(wrong) == said


@given(
    st.lists(st.tuples(st.integers(0, 1), NUMBERS, NUMBERS, st.integers(1, 5), st.integers(1, 5)), max_size=8)
)
def test_overlaps_are_those_of_the_metric(rows: list[tuple[int, ...]]) -> None:
    table = np.array(rows, np.float64).reshape(-1, 5)
    keys, boxes = table[:, 0].astype(np.int64), table[:, 1:]
    centred = torch.from_numpy(np.concatenate((boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]), axis=1))
    corners = xywh_to_xyxy(centred)
    expected = pairwise_iou(corners, corners).numpy()
    found = {
        (min(i, j), max(i, j)): iou
        for one, two, share in overlaps(keys, boxes)
        for i, j, iou in zip(one.tolist(), two.tolist(), share.tolist(), strict=True)
    }
    wanted = {(i, j) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]}
    assert found.keys() == wanted
    for (i, j), iou in found.items():
        assert iou == pytest.approx(expected[i, j], abs=1e-6)


def test_boxes_without_a_size_or_a_number() -> None:
    boxes = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, np.nan, 2], [1, 1, np.nan, 2], [1, 1, -3, 2]])
    ((first, second, iou),) = overlaps(np.zeros(5, np.int64), boxes)
    assert {
        tuple(sorted(pair)) for pair in zip(first[iou > 0].tolist(), second[iou > 0].tolist(), strict=True)
    } == {(0, 1)}
