"""Contact sheets: pictures in a grid, with boxes and words on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from yolo_core.data.images import Pixels

TILE = 320  # pixels, the side of the square that a picture is fitted into
PAPER = (245, 245, 245)
_GAP = 8
_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.4

Colour = tuple[int, int, int]


def fit(image: Pixels, side: int = TILE) -> tuple[Pixels, float]:
    """Shrink or grow a picture so that its longer side is ``side``; returns it with the scale."""
    scale = side / max(image.shape[:2])
    fitted: Pixels = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return fitted, scale


def on_paper(image: Pixels, height: int = TILE, margin: int = 0) -> Pixels:
    """Lay a picture at the top left of a tile of TILE pixels width."""
    tile: Pixels = np.full((height, TILE, 3), PAPER, np.uint8)
    room = tile[margin:, margin:]
    shape = [min(have, want) for have, want in zip(room.shape[:2], image.shape[:2], strict=True)]
    room[: shape[0], : shape[1]] = image[: shape[0], : shape[1]]
    return tile


def write(image: Pixels, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Write a label above a box's corner, or inside where there is no room above."""
    (width, height), base = cv2.getTextSize(text, _FONT, _SIZE, 1)
    x = max(min(corner[0], image.shape[1] - width), 0)
    y = corner[1] if corner[1] > height + base else corner[1] + height + base
    cv2.rectangle(image, (x, y - height - base), (x + width, y), colour, -1)
    cv2.putText(image, text, (x, y - base // 2 - 1), _FONT, _SIZE, (0, 0, 0), 1, cv2.LINE_AA)


def sheet(tiles: Sequence[Pixels], columns: int | None = None) -> Pixels:
    """Lay tiles of one shape out on white, in a square grid or in so many columns at most."""
    height, width = tiles[0].shape[:2]
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    page: Pixels = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        y, x = _GAP + (height + _GAP) * row, _GAP + (width + _GAP) * column
        page[y : y + height, x : x + width] = tile
    return page
