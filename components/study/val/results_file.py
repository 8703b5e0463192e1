"""COCO results from a file, as another tool or an earlier ``val`` wrote it, back to detections per image."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.evaluate import Rows
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.coco_eval import check_results


def read_results(path: Path, dataset: DetectionDataset, split: str) -> dict[int, Rows]:
    """Read a JSON list of COCO results: image id -> (n, 6) xyxy, score, class index; best first.

    Raises:
        UsageError: there is no such file.
        DataError: it is no list of results, or one names an image or category that the split does not list,
            or holds a number that is not finite.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name a file of COCO results") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}); write COCO results") from None
    if not isinstance(results, list):
        raise DataError(f"{path} must be a list of COCO results, not {type(results).__name__}")
    images = {sample.image_id for sample in dataset.samples(split)}
    place = f"split {split!r} of {dataset.name}"
    try:
        check_results(results, images, dataset.category_ids, place)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    index = {number: label for label, number in enumerate(dataset.category_ids)}
    found: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for row in results:
        x, y, width, height = row["bbox"]
        place_in_image = (x, y, x + width, y + height)
        found[row["image_id"]].append((*place_in_image, row["score"], index[row["category_id"]]))
    tables = {image: np.array(rows, np.float32) for image, rows in found.items()}
    return {image: rows[np.argsort(-rows[:, 4], kind="stable")] for image, rows in tables.items()}
