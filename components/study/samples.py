"""A sheet of pictures with what was found in them, beside what is there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import Sample
from yolo_core.data.images import Pixels
from yolo_core.data.preview import class_colour
from yolo_core.engine.evaluate import Evaluation, Rows

_TILE = 400  # pixels, both ways
_GAP = 6
_COLUMNS = 4
_MOST = 12
_CONFIDENCE = 0.25
_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (114, 114, 114)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38


def draw_samples(evaluation: Evaluation, path: Path) -> None:
    """Draw up to twelve pictures, spread over the split: truth in white, detections above 0.25 in colour."""
    samples = evaluation.dataset.samples(evaluation.split)
    samples = [sample for sample in samples if sample.image_id in evaluation.rows]
    chosen = np.linspace(0, len(samples) - 1, min(_MOST, len(samples))).round().astype(int)
    columns = min(_COLUMNS, len(chosen))
    step = _TILE + _GAP
    sheet = np.full((-(-len(chosen) // columns) * step + _GAP, columns * step + _GAP, 3), 255, np.uint8)
    for place, index in enumerate(chosen):
        sample = samples[index]
        top, left = _GAP + place // columns * step, _GAP + place % columns * step
        tile = _tile(sample, evaluation.rows[sample.image_id], evaluation.dataset.names)
        sheet[top : top + _TILE, left : left + _TILE] = tile
    cv2.imwrite(str(path), sheet)


def _tile(sample: Sample, rows: Rows, names: tuple[str, ...]) -> Pixels:
    """Return one picture, fitted into a tile: (400, 400, 3) BGR."""
    scale = _TILE / max(sample.width, sample.height)
    width, height = max(round(sample.width * scale), 1), max(round(sample.height * scale), 1)
    tile = np.full((_TILE, _TILE, 3), _GREY, np.uint8)
    tile[:height, :width] = cv2.resize(sample.read_image(), (width, height), interpolation=cv2.INTER_AREA)
    for box in sample.boxes * scale:
        _rectangle(tile, box, _WHITE)
    for row in rows[rows[:, 4] > _CONFIDENCE][::-1]:  # the best last, over the others
        category = int(row[5])
        colour = class_colour(category)
        corner = _rectangle(tile, row[:4] * scale, colour)
        _label(tile, f"{names[category]} {row[4]:.2f}", corner, colour)
    return tile


def _rectangle(tile: Pixels, box: NDArray[np.floating], colour: tuple[int, int, int]) -> tuple[int, int]:
    """Draw a box of xyxy; returns its top left corner."""
    left, top, right, bottom = (round(float(value)) for value in box)
    cv2.rectangle(tile, (left, top), (right, bottom), colour, 1)
    return left, top


def _label(tile: Pixels, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write on a filled strip above a corner, moved into the tile where it would leave it."""
    (width, height), base = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    x = max(min(corner[0], _TILE - width), 0)
    y = max(corner[1] - base, height + 1)
    cv2.rectangle(tile, (x, y - height - 1), (x + width, y + base), colour, cv2.FILLED)
    cv2.putText(tile, text, (x, y), _FONT, _FONT_SCALE, _BLACK, 1, cv2.LINE_AA)
