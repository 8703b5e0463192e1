"""Fitting images into shapes and mapping boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.data.letterbox import GREY, fit_size, letterbox, rectangular_shape, resize, to_original

SIDES = st.integers(1, 400)


@given(SIDES, SIDES, st.integers(8, 300))
def test_fit_size_makes_the_longest_side(width: int, height: int, size: int) -> None:
    new_width, new_height = fit_size(width, height, size)
    assert max(new_width, new_height) == size and min(new_width, new_height) >= 1
    assert abs(new_width * height - new_height * width) <= max(
        width, height
    )  # within half a pixel's rounding


@given(SIDES, SIDES, st.integers(8, 200), st.integers(8, 200), st.booleans())
def test_letterbox_places_the_image_and_boxes_come_back(
    width: int, height: int, box_width: int, box_height: int, scale_up: bool
) -> None:
    result = letterbox(np.zeros((height, width, 3), np.uint8), (box_height, box_width), scale_up=scale_up)
    assert result.image.shape == (box_height, box_width, 3)
    rows, columns = np.nonzero(result.image[..., 0] == 0)
    left, top = result.pad
    assert (columns.min(), rows.min()) == (left, top)
    inner_width, inner_height = columns.max() + 1 - left, rows.max() + 1 - top
    np.testing.assert_allclose(result.ratio, (inner_width / width, inner_height / height))
    assert abs(box_width - inner_width - 2 * left) <= 1 and abs(box_height - inner_height - 2 * top) <= 1
    assert (result.image[:top] == GREY).all() and (result.image[:, :left] == GREY).all()
    if not scale_up:
        assert inner_width <= width and inner_height <= height
    elif width != height:
        assert inner_width == box_width or inner_height == box_height
    whole = np.array([[left, top, left + inner_width, top + inner_height, 0.5, 3]], np.float32)
    back = to_original(whole, result.ratio, result.pad, (height, width))
    np.testing.assert_allclose(back, [[0, 0, width, height, 0.5, 3]], rtol=1e-5, atol=1e-3)


def test_a_painted_box_comes_back_to_its_place() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[30:90, 50:150] = 255
    result = letterbox(image, (64, 64), scale_up=False)
    rows, columns = np.nonzero(result.image[..., 0] > 180)
    found = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    back = to_original(found, result.ratio, result.pad, (120, 200))
    np.testing.assert_allclose(back, [[50, 30, 150, 90]], atol=200 / 64)


def test_to_original_clips_and_does_not_change_its_input() -> None:
    boxes = np.array([[-10, -10, 500, 500]], np.float32)
    back = to_original(boxes, (2.0, 2.0), (5, 7), (40, 30))
    assert back.tolist() == [[0, 0, 30, 40]]
    assert boxes.tolist() == [[-10, -10, 500, 500]]
    assert to_original(np.zeros((0, 6), np.float32), (1.0, 1.0), (0, 0), (9, 9)).shape == (0, 6)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(640, 480)], (512, 672)),  # multiples get half a stride on both ends
        ([(640, 427)], (448, 672)),
        ([(640, 640)], (672, 672)),
        ([(640, 480), (640, 360)], (512, 672)),
        ([(480, 640), (640, 480)], (672, 672)),
        ([(160, 1)], (32, 192)),
    ],
)
def test_rectangular_shapes(sizes: list[tuple[int, int]], shape: tuple[int, int]) -> None:
    assert rectangular_shape(sizes, 32) == shape


def test_rectangular_shape_without_padding() -> None:
    assert rectangular_shape([(640, 480)], 32, padding=0) == (480, 640)
    assert rectangular_shape([(640, 480)], 64, padding=0.5) == (512, 704)


def test_smooth_averages_only_when_shrinking() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::4] = 255
    shrunk = resize(stripes, 2, 2, smooth=True)
    assert (shrunk == 64).all()  # a quarter of each 4x4 block is white
    assert not (resize(stripes, 2, 2, smooth=False) == 64).all()
    np.testing.assert_array_equal(resize(stripes, 16, 16, smooth=True), resize(stripes, 16, 16, smooth=False))
    assert resize(stripes, 8, 8, smooth=True) is stripes
