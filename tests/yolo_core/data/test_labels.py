"""Boxes and polygons under motions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.data.coco import Sample
from yolo_core.data.labels import (
    Labels,
    LabelTable,
    Part,
    joined,
    no_labels,
    polygon_boxes,
    transformed,
    worth_keeping,
)

SIZE = 64


def make(boxes: list[list[float]], polygons: list[list[list[float]] | None] | None = None) -> Labels:
    outlines = polygons or [None] * len(boxes)
    points = [point for outline in outlines if outline for point in outline]
    return Labels(
        classes=np.arange(len(boxes)),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        counts=np.array([len(outline or []) for outline in outlines], np.int64),
        points=np.array(points, np.float32).reshape(-1, 2),
    )


def after(labels: Labels, matrix: np.ndarray, scale: float = 1.0) -> Labels:
    return transformed([Part(labels=labels, matrix=matrix, scale=scale)], SIZE)[0]


def brute_force_box(polygon: np.ndarray, size: int) -> np.ndarray | None:
    """The box round what is visible of a polygon, from many points along its edges and the corners."""
    ends = np.roll(polygon, -1, axis=0)
    along = np.linspace(0, 1, 4001)[:, None, None]
    points = (polygon + along * (ends - polygon)).reshape(-1, 2)
    seen = points[((points >= -1e-9) & (points <= size + 1e-9)).all(axis=1)]
    contour = polygon.astype(np.float32)[:, None]
    corners = [(0.0, 0.0), (size, 0.0), (0.0, size), (size, size)]
    inside = [corner for corner in corners if cv2.pointPolygonTest(contour, corner, False) > 0]
    seen = np.concatenate([seen, np.array(inside, float).reshape(-1, 2)])
    return np.concatenate([seen.min(0), seen.max(0)]) if len(seen) else None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_polygon_boxes_agree_with_brute_force(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = []
    for _ in range(count):  # star-shaped, so without crossings, often reaching beyond the picture
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        radii = rng.uniform(5, 90, len(angles))
        spokes = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
        polygons.append(rng.uniform(-40, SIZE + 40, 2) + spokes)
    found = polygon_boxes(np.concatenate(polygons), np.array([len(p) for p in polygons]), SIZE)
    for box, polygon in zip(found, polygons, strict=True):
        expected = brute_force_box(polygon, SIZE)
        if expected is None:
            assert (box[2:] - box[:2]).min() < 0.1
        else:
            np.testing.assert_allclose(box, expected, atol=0.1)


def test_polygons_that_surround_touch_or_miss_the_picture() -> None:
    around = [[-10, -10], [99, -10], [99, 99], [-10, 99]]
    outside = [[70, 0], [90, 0], [90, 64]]
    upright = [[10, -5], [20, -5], [20, 100], [10, 100]]  # edges along the axes, beyond both sides
    points = np.array([*around, *outside, *upright], float)
    boxes = polygon_boxes(points, np.array([4, 3, 4]), SIZE)
    np.testing.assert_allclose(boxes, [[0, 0, 64, 64], [0, 0, 0, 0], [10, 0, 20, 64]])


def test_a_polygon_gives_a_tighter_box_than_its_corners() -> None:
    diamond = [[20, 10], [30, 20], [20, 30], [10, 20]]
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter, about the origin
    half = np.sqrt(0.5)
    eighth = np.array([[half, -half, 30], [half, half, 0], [0, 0, 1]])
    labels = make([[10, 10, 30, 30], [10, 10, 30, 30]], [diamond, None])
    tight, loose = after(labels, eighth).boxes
    np.testing.assert_allclose(tight[2:] - tight[:2], [20 * half, 20 * half], rtol=1e-5)
    np.testing.assert_allclose(loose[2:] - loose[:2], [40 * half, 40 * half], rtol=1e-5)
    assert len(after(labels, turn)) == 0  # all beyond the left edge


def test_a_polygon_tells_what_is_left_of_a_cut_box() -> None:
    triangle = [[0, 0], [40, 0], [40, 40]]
    shift = np.array([[1.0, 0, -20], [0, 1, 0], [0, 0, 1]])
    labels = make([[0, 0, 40, 40], [0, 0, 40, 40]], [triangle, None])
    boxes = after(labels, shift).boxes
    np.testing.assert_allclose(boxes, [[0, 0, 20, 40], [0, 0, 20, 40]])
    up = np.array([[1.0, 0, 0], [0, 1, -20], [0, 0, 1]])
    boxes = after(labels, up).boxes
    np.testing.assert_allclose(boxes, [[20, 0, 40, 20], [0, 0, 40, 20]])


def test_keeping_rules() -> None:
    before = np.array([[0, 0, 100, 100]] * 7, float)
    after = np.array(
        [
            [0, 0, 2, 50],  # not over 2 px wide
            [0, 0, 2.1, 40],  # over, aspect 19
            [0, 0, 2.1, 43],  # aspect over 20
            [0, 0, 30, 33],  # 0.099 of the area
            [0, 0, 30, 34],
            [0, 0, 30, 33],  # enough for a polygon
            [50, 50, 40, 60],  # turned inside out: nothing left
        ]
    )
    least = np.array([0.001, 0.001, 0.001, 0.1, 0.1, 0.01, 0.1])
    assert worth_keeping(before, after, least).tolist() == [False, True, False, False, True, True, False]


def test_the_area_rule_allows_for_the_scale() -> None:
    shrink = np.diag((0.25, 0.25, 1.0))
    labels = make([[0, 0, 60, 60]])
    assert len(after(labels, shrink, 0.25)) == 1  # a sixteenth, but all of it is there
    assert len(after(labels, shrink)) == 0


def test_perspective_divides() -> None:
    lean = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]])
    box = after(make([[10, 10, 40, 20]]), lean).boxes[0]
    np.testing.assert_allclose(box, [10 / 1.1, 10 / 1.4, 40 / 1.4, 20 / 1.1], rtol=1e-5)


def test_boxes_behind_the_horizon_are_dropped() -> None:
    lean = np.array([[1.0, 0, 0], [0, 1, 0], [-0.03, 0, 1]])
    square = [[10.0, 10], [40, 10], [40, 20], [10, 20]]
    labels = make([[10, 10, 40, 20], [10, 10, 40, 20], [1, 1, 8, 8]], [square, None, None])
    assert after(labels, lean).classes.tolist() == [2]


def test_moving_clipping_choosing_and_joining() -> None:
    square = [[1.0, 1], [5, 1], [5, 5], [1, 5]]
    labels = make([[1, 1, 5, 5], [30, 30, 40, 40]], [square, None])
    moved = labels.moved(scale=(2, 3), offset=(10, -4))
    np.testing.assert_allclose(moved.boxes, [[12, -1, 20, 11], [70, 86, 90, 116]])
    np.testing.assert_allclose(moved.polygon(0), [[12, -1], [20, -1], [20, 11], [12, 11]])
    clipped = moved.clipped(SIZE, SIZE)
    np.testing.assert_allclose(clipped.boxes, [[12, 0, 20, 11]])
    assert clipped.counts.tolist() == [4]
    chosen = labels.selected(np.array([False, True]))
    assert chosen.classes.tolist() == [1] and chosen.points.shape == (0, 2)
    both = joined([chosen, labels])
    assert both.classes.tolist() == [1, 0, 1] and both.counts.tolist() == [0, 4, 0]
    np.testing.assert_allclose(both.polygon(1), square)
    assert len(both.polygon(2)) == 0
    assert len(joined([])) == len(no_labels()) == 0


@pytest.mark.parametrize("matrix", [np.eye(3), np.diag((2.0, 2.0, 1.0))])
def test_no_labels_stay_no_labels(matrix: np.ndarray) -> None:
    assert len(after(no_labels(), matrix)) == 0
    assert len(no_labels().moved(offset=(1, 1)).clipped(5, 5)) == 0


def test_samples_teach_their_boxes_without_crowds() -> None:
    square = np.array([[1, 1], [5, 1], [5, 5]], np.float32)
    sample = Sample(
        image_id=1,
        path=Path("x.png"),
        width=20,
        height=10,
        boxes=np.array([[1, 1, 5, 5], [0, 0, 9, 9], [15, 5, 30, 30], [25, 0, 30, 5]], np.float32),
        classes=np.array([0, 1, 2, 3]),
        crowd=np.array([False, True, False, False]),
        polygons=(square, None, None, None),
    )
    empty = replace(
        sample, boxes=sample.boxes[:0], classes=sample.classes[:0], crowd=sample.crowd[:0], polygons=()
    )
    table = LabelTable([empty, sample, sample, empty], [(20, 10), (20, 10), (40, 30), (20, 10)])
    assert [len(table[index]) for index in range(4)] == [0, 2, 2, 0]
    twice = table[2]
    np.testing.assert_allclose(twice.boxes, [[2, 3, 10, 15], [30, 15, 40, 30]])
    np.testing.assert_allclose(twice.polygon(0), square * (2, 3))
    labels = table[1]
    assert labels.classes.tolist() == [0, 2]  # the crowd and the box outside are gone
    np.testing.assert_allclose(labels.boxes, [[1, 1, 5, 5], [15, 5, 20, 10]])
    np.testing.assert_allclose(labels.polygon(0), square)
