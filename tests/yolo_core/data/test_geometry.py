"""Random motions: pixels and labels must move alike, whichever way the pixels are moved."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from yolo_core.data.geometry import Motion, MotionRange, Window, draw_motion, warp
from yolo_core.data.labels import Labels, no_labels, transformed
from yolo_core.data.letterbox import GREY
from yolo_core.data.mosaic import Canvas, Tile
from yolo_core.data.paste import Drawn
from yolo_core.data.render import Scene, render
from yolo_core.data.scratch import Scratch

SIZE = 160
CANVAS = (320, 320)
SCRATCH = Scratch()
STRONG = MotionRange(degrees=30, translate=0.2, scale=0.6, shear=10, perspective=0.0006)
ALIGNED = MotionRange(translate=0.2, scale=0.5)


def move(canvas: np.ndarray, motion: Motion, labels: Labels | None = None) -> tuple[np.ndarray, Labels]:
    """Move one image that fills its canvas: the picture, and the boxes."""
    height, width = canvas.shape[:2]
    tile = Tile(index=0, place=Window(left=0, top=0, right=width, bottom=height))
    source = Drawn(image=canvas, boxes=labels or no_labels())
    scene = Scene(canvas=Canvas(width=width, height=height, tiles=(tile,)), source=source, motion=motion)
    picture, parts = render(scene, SCRATCH)
    return picture.copy(), transformed(parts, motion.size)[0]


def square_canvas(rng: np.random.Generator) -> tuple[np.ndarray, Labels]:
    """A black canvas with one white rectangle, its box and its polygon."""
    x, y = rng.integers(110, 170, 2)
    w, h = rng.integers(20, 60, 2)
    canvas = np.zeros((CANVAS[1], CANVAS[0], 3), np.uint8)
    canvas[y : y + h, x : x + w] = 255
    labels = Labels(
        classes=np.array([0]),
        boxes=np.array([[x, y, x + w, y + h]], np.float32),
        counts=np.array([4]),
        points=np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float32),
    )
    return canvas, labels


@pytest.mark.parametrize("strength", [STRONG, ALIGNED, MotionRange(degrees=45), MotionRange(scale=0.9)])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_boxes_move_with_the_pixels(strength: MotionRange, flips: tuple[bool, bool]) -> None:
    checked = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        canvas, labels = square_canvas(rng)
        motion = draw_motion(CANVAS, SIZE, strength, rng)
        motion = replace(motion, flip_x=flips[0], flip_y=flips[1])
        picture, moved = move(canvas, motion, labels)
        rows, columns = np.nonzero(picture[..., 0] > 127)
        inside = (picture[[0, -1]] == 0).all() and (picture[:, [0, -1]] == 0).all()
        if len(rows) and inside and len(moved):
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(moved.boxes[0], found, atol=1.2)
            checked += 1
    assert checked >= 10


def test_aligned_and_general_warp_agree() -> None:
    rng = np.random.default_rng(3)
    canvas = cv2.GaussianBlur(rng.integers(0, 256, (320, 320, 3), dtype=np.uint8), (0, 0), 4)
    for seed in range(10):
        motion = draw_motion(CANVAS, SIZE, ALIGNED, np.random.default_rng(seed))
        assert motion.origin is not None
        general = replace(motion, origin=None)
        difference = np.abs(move(canvas, motion)[0].astype(int) - move(canvas, general)[0].astype(int))
        # Where the canvas ends, its edge falls on a whole pixel or is blended with grey.
        seen = np.full((SIZE, SIZE), 255, np.uint8)
        inside = motion.place(Window(left=0, top=0, right=CANVAS[0], bottom=CANVAS[1]))
        part = seen[max(inside.top, 0) : inside.bottom, max(inside.left, 0) : inside.right]
        part[2:-2, 2:-2] = 0
        assert difference[seen == 0].max() <= 4, seed


def test_what_is_not_seen_is_not_needed() -> None:
    rng = np.random.default_rng(4)
    canvas = rng.integers(0, 256, (320, 320, 3), dtype=np.uint8)
    for seed in range(30):
        motion = draw_motion(CANVAS, SIZE, STRONG, np.random.default_rng(seed))
        whole = Window(left=0, top=0, right=320, bottom=320)
        expected = np.empty((SIZE, SIZE, 3), np.uint8)
        warp(canvas, whole, motion, expected)
        difference = np.abs(move(canvas, motion)[0].astype(int) - expected)
        assert difference.max() <= 1, seed  # the matrices differ in their last bits


def test_beyond_the_canvas_is_grey() -> None:
    canvas = np.zeros((320, 320, 3), np.uint8)
    for strength in (STRONG, ALIGNED):
        far = replace(draw_motion(CANVAS, SIZE, strength, np.random.default_rng(0)), origin=None)
        matrix = far.matrix.copy()
        matrix[:2, 2] += 10_000 * matrix[2, 2]
        assert (move(canvas, replace(far, matrix=matrix))[0] == GREY).all()
    aligned = Motion(matrix=np.eye(3), scale=1.0, size=SIZE, origin=(-80, 240))
    picture, _ = move(canvas, aligned)
    assert (picture[:, :80] == GREY).all() and (picture[80:] == GREY).all()
    assert (picture[:80, 80:] == 0).all()


def test_no_strength_is_a_cut_from_the_middle() -> None:
    canvas = np.random.default_rng(5).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    motion = draw_motion(CANVAS, SIZE, MotionRange(), np.random.default_rng(0))
    np.testing.assert_array_equal(move(canvas, motion)[0], canvas[80:240, 80:240])
    assert motion.scale == 1 and motion.origin == (80, 80)


def test_draws_stay_in_their_ranges() -> None:
    scales, shifts = [], []
    for seed in range(400):
        motion = draw_motion(CANVAS, SIZE, ALIGNED, np.random.default_rng(seed))
        scales.append(motion.scale)
        centre = motion.matrix @ (160, 160, 1)
        shifts.append(centre[:2] / SIZE)
    assert 0.5 <= min(scales) < 0.53 and 1.47 < max(scales) <= 1.5
    assert 0.29 <= np.min(shifts) < 0.32 and 0.68 < np.max(shifts) <= 0.71


def test_every_draw_takes_as_many_random_numbers() -> None:
    after = set()
    for strength in (MotionRange(), STRONG, ALIGNED, MotionRange(scale=0.9)):
        rng = np.random.default_rng(1)
        draw_motion(CANVAS, SIZE, strength, rng)
        after.add(rng.random())
    assert len(after) == 1


def test_windows_overlap() -> None:
    one = Window(left=0, top=0, right=10, bottom=10)
    assert one.overlap(Window(left=5, top=-5, right=20, bottom=3)) == Window(
        left=5, top=0, right=10, bottom=3
    )
    assert one.overlap(Window(left=10, top=0, right=20, bottom=9)).is_empty
    assert not one.is_empty
