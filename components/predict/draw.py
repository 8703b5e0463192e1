"""Boxes with class names and scores on an image; reading and writing image files."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from yolo_core.data.images import Pixels, read_image
from yolo_core.errors import DataError, UsageError

_GOLDEN = 0.618034  # steps of the golden ratio spread hues evenly for any number of classes
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def read(path: Path) -> Pixels:
    """Read an image as (H, W, 3) BGR uint8, or raise `UsageError` that names the file."""
    try:
        return read_image(path)
    except DataError as error:
        raise UsageError(str(error)) from error


def write(path: Path, image: Pixels) -> None:
    """Write an image in the format of the path's suffix."""
    if not cv2.imwrite(str(path), image):
        raise UsageError(f"{path} cannot be written; check the folder and the space on the disk")


def draw(image: Pixels, detections: Sequence[dict[str, Any]]) -> Pixels:
    """Return a copy of an (H, W, 3) BGR image with a box, a name and a score per detection.

    ``xyxy`` of a detection is in pixels of the image; weaker ones are drawn first, so that they
    do not hide stronger ones.
    """
    canvas = image.copy()
    side = max(canvas.shape[:2])
    line = max(round(side / 320), 1)
    scale = max(side / 1200, 0.35)
    for found in sorted(detections, key=lambda item: float(item["score"])):
        left, top, right, bottom = (round(value) for value in found["xyxy"])
        tint = colour(int(found["class"]))
        cv2.rectangle(canvas, (left, top), (right, bottom), tint, line)
        label = f"{found['name']} {found['score']:.2f}"
        (width, height), base = cv2.getTextSize(label, _FONT, scale, 1)
        # Above the box, or inside it where the image ends; never past the right edge.
        x = max(min(left, canvas.shape[1] - width), 0)
        y = top - base if top - base - height >= 0 else top + height + base
        cv2.rectangle(canvas, (x, y - height - 1), (x + width, y + base), tint, cv2.FILLED)
        ink = (0, 0, 0) if sum(tint) > 382 else (255, 255, 255)
        cv2.putText(canvas, label, (x, y), _FONT, scale, ink, 1, cv2.LINE_AA)
    return canvas


def colour(index: int) -> tuple[int, int, int]:
    """Return the BGR colour of a class."""
    red, green, blue = colorsys.hsv_to_rgb((index * _GOLDEN) % 1.0, 0.85, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)
