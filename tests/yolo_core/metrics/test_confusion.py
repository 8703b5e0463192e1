"""The confusion matrix, worked by hand and against sums that must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.metrics.confusion import ConfusionMatrix, pair_up

A, B = [0, 0, 10, 10], [50, 50, 60, 60]


def counted(detections: list[list[float]], boxes: list[list[float]], classes: list[int]) -> list[list[int]]:
    matrix = ConfusionMatrix(num_classes=2)
    matrix.add(
        np.array(detections, float).reshape(-1, 6),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, np.int64),
    )
    return matrix.matrix.tolist()


@pytest.mark.parametrize(
    ("detections", "boxes", "classes", "expected"),
    [
        pytest.param([[*A, 0.9, 0]], [A], [0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]], id="right"),
        pytest.param([[*A, 0.9, 1]], [A], [0], [[0, 0, 0], [1, 0, 0], [0, 0, 0]], id="taken for another"),
        pytest.param([[*B, 0.9, 1]], [A], [0], [[0, 0, 0], [0, 0, 1], [1, 0, 0]], id="missed and invented"),
        pytest.param([[*A, 0.25, 0]], [A], [0], [[0, 0, 0], [0, 0, 0], [1, 0, 0]], id="not confident"),
        pytest.param([], [A, B], [0, 1], [[0, 0, 0], [0, 0, 0], [1, 1, 0]], id="nothing detected"),
        pytest.param([[*A, 0.9, 0]], [], [], [[0, 0, 1], [0, 0, 0], [0, 0, 0]], id="no truth"),
        pytest.param([], [], [], [[0] * 3] * 3, id="nothing at all"),
        pytest.param([[*A, 0.9, 0], [*A, 0.8, 0]], [A], [0], [[1, 0, 1], [0, 0, 0], [0, 0, 0]], id="doubled"),
        pytest.param([[0, 0, 10, 4.4, 0.9, 0]], [A], [0], [[0, 0, 1], [0, 0, 0], [1, 0, 0]], id="IoU .44"),
        pytest.param([[0, 0, 10, 4.6, 0.9, 0]], [A], [0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]], id="IoU .46"),
    ],
)
def test_one_image_by_hand(
    detections: list[list[float]], boxes: list[list[float]], classes: list[int], expected: list[list[int]]
) -> None:
    assert counted(detections, boxes, classes) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_every_truth_and_every_confident_detection_is_counted_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = ConfusionMatrix(num_classes=3)
    truths, kept = np.zeros(3, int), np.zeros(3, int)
    for _ in range(4):
        boxes, found = (rng.integers(0, 20, (rng.integers(0, 6), 4)).astype(float) for _ in range(2))
        for some in (boxes, found):
            some[:, 2:] += some[:, :2] + 5
        classes, labels = rng.integers(0, 3, len(boxes)), rng.integers(0, 3, len(found))
        scores = rng.random(len(found))
        matrix.add(np.column_stack((found, scores, labels)), boxes, classes)
        truths += np.bincount(classes, minlength=3)
        kept += np.bincount(labels[scores > 0.25], minlength=3)
    assert matrix.matrix[:, :3].sum(0).tolist() == truths.tolist()
    assert matrix.matrix[:3].sum(1).tolist() == kept.tolist()
    assert matrix.matrix[3, 3] == 0


def slow_iou(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (sum(areas) - width * height)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_equals_a_slow_computation(seed: int) -> None:
    """Again and again the pair that overlaps most is taken out, one cell of the matrix at a time."""
    rng = np.random.default_rng(seed)
    boxes, found = (rng.uniform(0, 30, (rng.integers(0, 8), 4)) for _ in range(2))
    for some in (boxes, found):
        some[:, 2:] += some[:, :2] + 10
    classes, labels = rng.integers(0, 3, len(boxes)), rng.integers(0, 3, len(found))
    scores = rng.random(len(found))
    matrix = ConfusionMatrix(num_classes=3)
    matrix.add(np.column_stack((found, scores, labels)), boxes, classes)

    expected = [[0] * 4 for _ in range(4)]
    waiting = [i for i in range(len(found)) if scores[i] > 0.25]
    missed = list(range(len(boxes)))
    while pairs := [(slow_iou(found[i], boxes[j]), i, j) for i in waiting for j in missed]:
        overlap, i, j = max(pairs)
        if overlap < 0.45:
            break
        expected[labels[i]][classes[j]] += 1
        waiting.remove(i)
        missed.remove(j)
    for i in waiting:
        expected[labels[i]][3] += 1
    for j in missed:
        expected[3][classes[j]] += 1
    assert matrix.matrix.tolist() == expected


def test_pairs_go_by_overlap_not_by_order() -> None:
    overlap = np.array([[0.6, 0.5], [0.9, 0.0], [0.0, 0.4]])
    assert pair_up(overlap, 0.45) == [(1, 0), (0, 1)]


def test_no_overlap_no_pairs() -> None:
    assert pair_up(np.zeros((0, 3)), 0.45) == pair_up(np.zeros((3, 0)), 0.45) == []
