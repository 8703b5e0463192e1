"""The official COCO metric of as many detections as a validation of COCO has: 5,000 images, 100 boxes each.

Run ``python benchmarks/coco_metric.py`` from the repository's root. Truth and detections are synthetic:
7 objects per image of 80 classes, each found with some error, and noise beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from timing import progress

from yolo_core.metrics.coco_eval import coco_evaluate

_CLASSES, _OBJECTS, _SIDE = 80, 7, 640


def draw(images: int, per_image: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a COCO document and COCO results."""
    rng = np.random.default_rng(0)
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        size = np.exp(rng.uniform(np.log(8), np.log(400), (per_image, 2)))
        boxes = np.concatenate((rng.uniform(0, _SIDE - size), size), 1)
        classes = rng.integers(1, _CLASSES + 1, per_image)
        for box, category in zip(boxes[:_OBJECTS].tolist(), classes[:_OBJECTS].tolist(), strict=True):
            area = box[2] * box[3]
            row = {"id": len(truth) + 1, "image_id": image, "category_id": category, "bbox": box}
            truth.append({**row, "area": area, "iscrowd": 0})
        found = boxes + rng.normal(0, 0.05, boxes.shape) * np.tile(size, 2)
        scores = rng.uniform(0, 1, per_image) * np.where(np.arange(per_image) < _OBJECTS, 1, 0.5)
        for row in zip(found.tolist(), classes.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": row[1], "bbox": row[0], "score": row[2]})
    document = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 640} for n in range(1, images + 1)
        ],
        "annotations": truth,
        "categories": [{"id": n, "name": str(n)} for n in range(1, _CLASSES + 1)],
    }
    return document, results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds of the official COCO metric.")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    progress("drawing boxes")
    document, results = draw(arguments.images, arguments.detections)
    wall, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(document))
        for number in range(arguments.rounds):
            progress(f"round {number + 1} of {arguments.rounds}")
            began, used = time.perf_counter(), time.process_time()
            metrics = coco_evaluate(path, results)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
    progress("")
    print(f"COCO metric, {arguments.images} images x {arguments.detections} detections, AP {metrics.ap:.3f}")
    print(f"  median {statistics.median(wall):.1f} s, cpu {statistics.median(cpu):.1f} s")


if __name__ == "__main__":
    main()
