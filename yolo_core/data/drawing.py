"""Boxes with labels on pictures, the labels where they hide no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.images import Pixels

Colour = tuple[int, int, int]  # blue, green, red

_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
_PAD = 2  # pixels around a text
_FAR = 4096  # pixels; OpenCV's integers overflow far beyond a picture

Area = tuple[int, int, int, int]  # left, top, right, bottom


def draw_boxes(
    picture: Pixels, boxes: NDArray[np.floating], labels: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Draw boxes, then labels on strips of their colours, in order; a label that finds no place is left out.

    Args:
        picture: (H, W, 3) BGR, drawn on.
        boxes: (n, 4) xyxy in pixels.
        labels: n texts; an empty one is not drawn.
        colours: n colours.
    """
    corners = np.clip(np.nan_to_num(boxes), -_FAR, _FAR).round().astype(int).reshape(-1, 4)
    for (left, top, right, bottom), colour in zip(corners.tolist(), colours, strict=True):
        cv2.rectangle(picture, (left, top), (right, bottom), colour, 1)
    taken: list[Area] = []
    for box, label, colour in zip(corners.tolist(), labels, colours, strict=True):
        if not label:
            continue
        place = next((one for one in _places(picture, box, label) if _is_free(one, taken)), None)
        if place is not None:
            taken.append(place)
            left, top, right, bottom = place
            cv2.rectangle(picture, (left, top), (right, bottom), colour, cv2.FILLED)
            foot = (left + _PAD, bottom - _PAD - _base(label) // 2)
            cv2.putText(picture, label, foot, _FONT, _SIZE, (0, 0, 0), 1, cv2.LINE_AA)


def _places(picture: Pixels, box: list[int], label: str) -> Iterator[Area]:
    """Yield where a label may stand, the best first: outside the box's corners, then inside."""
    (width, height), base = cv2.getTextSize(label, _FONT, _SIZE, 1)
    width, height = width + 2 * _PAD, height + base // 2 + 2 * _PAD
    left, top, right, bottom = box
    tall, wide = picture.shape[:2]
    for y in (top - height, bottom, top, bottom - height):
        for x in (left, right - width):
            x0 = max(min(x, wide - 1 - width), 0)
            y0 = max(min(y, tall - 1 - height), 0)
            yield x0, y0, x0 + width, y0 + height


def _base(label: str) -> int:
    return int(cv2.getTextSize(label, _FONT, _SIZE, 1)[1])


def _is_free(place: Area, taken: Sequence[Area]) -> bool:
    left, top, right, bottom = place
    return not any(left < r and x < right and top < b and y < bottom for x, y, r, b in taken)
