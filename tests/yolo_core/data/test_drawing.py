"""Labels are written whole, beside their boxes, and never over one another."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.data.drawing import draw_boxes

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (200, 40, 200), (40, 200, 200)]


def paper(width: int = 300, height: int = 200) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def strip(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Number of pixels of a colour."""
    return int((picture == np.array(colour)).all(axis=2).sum())


def test_a_label_stands_above_its_box_and_inside_the_picture() -> None:
    picture = paper()
    draw_boxes(picture, np.array([[100.0, 80.0, 160.0, 120.0]]), ["cat 0.93"], COLOURS[:1])
    assert (picture[66:79, 100:150] == COLOURS[0]).all(axis=2).mean() > 0.5
    assert (picture[84:116, 104:156] == 0).all()
    corner = paper()
    draw_boxes(corner, np.array([[270.0, 0.0, 299.0, 199.0]]), ["cat 0.93"], COLOURS[:1])
    assert strip(corner, COLOURS[0]) > 400  # neither above nor right of the box is there room


def test_what_has_no_label_or_no_number_is_drawn_all_the_same() -> None:
    picture = paper()
    boxes = np.array([[10.0, 10.0, 50.0, 50.0], [np.nan, -1e12, 1e12, np.inf]])
    draw_boxes(picture, boxes, ["", ""], COLOURS[:2])
    assert tuple(picture[10, 30]) == COLOURS[0]
    draw_boxes(picture, np.zeros((0, 4)), [], [])


@given(
    st.lists(
        st.tuples(st.integers(0, 280), st.integers(0, 180), st.integers(4, 80), st.integers(4, 80)),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_label_hides_another(places: list[tuple[int, int, int, int]]) -> None:
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in places], float)
    colours = COLOURS[: len(boxes)]
    picture, alone = paper(), []
    draw_boxes(picture, boxes, [f"class {n}" for n in range(len(boxes))], colours)
    for number, colour in enumerate(colours):
        single = paper()
        draw_boxes(single, boxes[number : number + 1], [f"class {number}"], [colour])
        bare = paper()
        draw_boxes(bare, boxes[number : number + 1], [""], [colour])
        alone.append((strip(single, colour), strip(bare, colour)))
    for colour, (labelled, bare) in zip(colours, alone, strict=True):
        shown = strip(picture, colour)
        # Either the whole strip is there, or none of it; lines of boxes may cross and be covered.
        assert shown >= labelled - bare - 60 or shown <= bare
