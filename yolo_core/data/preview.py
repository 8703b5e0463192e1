"""A contact sheet: pictures in a grid with their boxes drawn, to see what training sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from torch import Tensor

from yolo_core.data.images import Pixels
from yolo_core.data.loader import TrainBatch

_GAP = 4  # white pixels between pictures
_GOLDEN = 0.618033988749895  # steps of this much round the colour wheel keep neighbours apart


def contact_sheet(
    batches: Sequence[TrainBatch], names: Sequence[str], *, columns: int = 4, limit: int = 16
) -> Pixels:
    """Draw the pictures of training batches with their boxes and class names.

    Args:
        batches: as `yolo_core.data.loader.TrainLoader` yields them, all of one image size.
        names: of the classes.
        columns: pictures per row.
        limit: pictures at most.

    Returns:
        (H, W, 3) BGR uint8, for `cv2.imwrite`.
    """
    pictures = [
        draw_targets(image, batch.targets[batch.targets[:, 0] == slot], names)
        for batch in batches
        for slot, image in enumerate(batch.images)
    ][:limit]
    if not pictures:
        raise ValueError("no pictures to draw")
    columns = min(columns, len(pictures))
    step = pictures[0].shape[0] + _GAP
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * step + _GAP, columns * step + _GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = _GAP + place // columns * step, _GAP + place % columns * step
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def draw_targets(image: Tensor, targets: Tensor, names: Sequence[str]) -> Pixels:
    """Draw boxes on one picture.

    Args:
        image: (3, S, S) uint8 RGB.
        targets: (m, 6) rows of image, class, then centre and size as shares of the side.
        names: of the classes.

    Returns:
        (S, S, 3) BGR uint8.
    """
    picture = np.ascontiguousarray(image.numpy()[::-1].transpose(1, 2, 0))
    size = picture.shape[0]
    scale = max(size / 640, 0.4)
    for _, number, x, y, width, height in targets.tolist():
        colour = class_colour(int(number))
        left, top = round((x - width / 2) * size), round((y - height / 2) * size)
        right, bottom = round((x + width / 2) * size) - 1, round((y + height / 2) * size) - 1
        cv2.rectangle(picture, (left, top), (right, bottom), colour, max(round(2 * scale), 1))
        where = (left, max(top - 3, round(12 * scale)))
        cv2.putText(picture, names[int(number)], where, cv2.FONT_HERSHEY_SIMPLEX, scale * 0.7, colour, 1)
    return picture


def class_colour(index: int) -> tuple[int, int, int]:
    """Return a class's BGR colour: bright, and unlike its neighbours'."""
    hue = round(index * _GOLDEN % 1 * 179)
    blue, green, red = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return int(blue), int(green), int(red)
