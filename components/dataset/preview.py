"""A contact sheet: some images of a split with their boxes, outlines and class names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from components.sheet import fit, on_paper, sheet, write
from yolo_core.data.coco import DetectionDataset, Sample, open_dataset
from yolo_core.data.images import Pixels
from yolo_core.errors import UsageError

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
    page = sheet([_tile(dataset, samples[index]) for index in chosen])
    _, content = cv2.imencode(target.suffix.lower(), page)
    target.write_bytes(content.tobytes())
    return target


def _tile(dataset: DetectionDataset, sample: Sample) -> Pixels:
    """Draw one image with its truth, (TILE, TILE, 3) BGR."""
    image, scale = fit(sample.read_image())
    for box, index, polygon, crowd in zip(
        sample.boxes, sample.classes, sample.polygons, sample.crowd, strict=True
    ):
        colour = _colour(int(index))
        x0, y0, x1, y1 = (round(float(edge) * scale) for edge in box)
        if polygon is not None:
            outline = np.rint(polygon * scale).astype(np.int32)
            cv2.polylines(image, [outline], True, colour, 1, cv2.LINE_AA)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 1)
        write(image, dataset.names[index] + (" (crowd)" if crowd else ""), (x0, y0), colour)
    return on_paper(image)


def _colour(index: int) -> tuple[int, int, int]:
    """Return a light BGR colour per class; the golden angle keeps neighbours apart."""
    hue = round(index * 137.508) % 360 // 2
    blue, green, red = cv2.cvtColor(np.array([[[hue, 150, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0]
    return int(blue), int(green), int(red)
