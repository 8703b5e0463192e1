"""A contact sheet: some images of a split with their boxes, outlines and class names."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import DetectionDataset, Sample, open_dataset, read_image
from yolo_core.errors import UsageError

Pixels = NDArray[np.uint8]

_TILE = 320  # pixels, the side of the square that an image is fitted into
_GAP = 8
_PAPER = (245, 245, 245)
_SUFFIXES = (".png", ".jpg", ".jpeg")


def preview(root: Path, target: Path, split: str = "train", count: int = 16) -> Path:
    """Draw ``count`` images, evenly spread over a split of the canonical folder ``root``, to ``target``.

    Raises:
        UsageError: ``target`` is not a .png or .jpg, its folder is missing, or count is not positive.
        DataError: the dataset or the split cannot be read.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"a preview must end in {', '.join(_SUFFIXES)}, not {target.name}")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {target.parent}; make it first")
    if count < 1:
        raise UsageError(f"a preview needs at least 1 image, not {count}")
    dataset = open_dataset(root)
    samples = dataset.samples(split)
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int))
    sheet = _sheet([_tile(dataset, samples[index]) for index in chosen])
    _, content = cv2.imencode(target.suffix.lower(), sheet)
    target.write_bytes(content.tobytes())
    return target


def _tile(dataset: DetectionDataset, sample: Sample) -> Pixels:
    """Draw one image with its truth, (_TILE, _TILE, 3) BGR."""
    image = read_image(sample.path)
    scale = _TILE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for box, index, polygon, crowd in zip(
        sample.boxes, sample.classes, sample.polygons, sample.crowd, strict=True
    ):
        colour = _colour(int(index))
        x0, y0, x1, y1 = (round(float(edge) * scale) for edge in box)
        if polygon is not None:
            outline = np.rint(polygon * scale).astype(np.int32)
            cv2.polylines(image, [outline], True, colour, 1, cv2.LINE_AA)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 1)
        _write(image, dataset.names[index] + (" (crowd)" if crowd else ""), (x0, y0), colour)
    tile = np.full((_TILE, _TILE, 3), _PAPER, np.uint8)
    tile[: image.shape[0], : image.shape[1]] = image[:_TILE, :_TILE]
    return tile


def _write(image: Pixels, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Write a label above a box's corner, or inside where there is no room above."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (width, height), base = cv2.getTextSize(text, font, size, 1)
    x = max(min(corner[0], image.shape[1] - width), 0)
    y = corner[1] if corner[1] > height + base else corner[1] + height + base
    cv2.rectangle(image, (x, y - height - base), (x + width, y), colour, -1)
    cv2.putText(image, text, (x, y - base // 2 - 1), font, size, (0, 0, 0), 1, cv2.LINE_AA)


def _colour(index: int) -> tuple[int, int, int]:
    """Return a light BGR colour per class; the golden angle keeps neighbours apart."""
    hue = round(index * 137.508) % 360 // 2
    blue, green, red = cv2.cvtColor(np.array([[[hue, 150, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)


def _sheet(tiles: list[Pixels]) -> Pixels:
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    step = _TILE + _GAP
    sheet = np.full((rows * step + _GAP, columns * step + _GAP, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        y, x = (_GAP + step * place for place in divmod(number, columns))
        sheet[y : y + _TILE, x : x + _TILE] = tile
    return sheet
