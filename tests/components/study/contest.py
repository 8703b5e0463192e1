"""Contestants and stored results without a model: boxes drawn by chance and found with more or less care."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.study.compare.contrast import Contestant, Timing
from yolo_core.data.coco import DetectionDataset, SourceBox, SourceImage, class_table, write_dataset
from yolo_core.metrics.coco_matching import coco_matches

NAMES = ("cat", "dog", "owl")


def draw_dataset(
    root: Path, *, images: int = 30, seed: int = 0, names: Sequence[str] = NAMES
) -> DetectionDataset:
    """A dataset whose test split has grey images with up to four boxes each; the last class is rare."""
    rng = np.random.default_rng(seed)
    content = cv2.imencode(".png", np.full((96, 128, 3), 100 + seed, np.uint8))[1].tobytes()

    def draw(number: int) -> SourceImage:
        boxes = []
        for _ in range(rng.integers(1, 5)):
            label = 2 if number == 0 else int(rng.integers(0, 2))
            x, y, side = rng.integers(0, 60), rng.integers(0, 50), rng.integers(15, 40)
            boxes.append(SourceBox(class_index=label, box=(float(x), float(y), float(side), float(side))))
        return SourceImage(file_name=f"{number:03d}.png", content=content, boxes=boxes)

    splits = {"train": [draw(1)], "test": [draw(number) for number in range(images)]}
    return write_dataset(root, splits, class_table(list(names)), name=f"boxes{seed}", source="drawn")


def find_boxes(dataset: DetectionDataset, *, error: float, seed: int = 0) -> list[dict[str, Any]]:
    """COCO results: the test split's boxes, off by a share ``error`` of their side, and false ones."""
    rng = np.random.default_rng(seed)
    results = []
    for row in dataset.annotations("test")["annotations"]:
        x, y, width, height = row["bbox"]
        moved = [x + rng.normal(0, error) * width, y + rng.normal(0, error) * height, width, height]
        for box, score in (
            (moved, 0.4 + 0.6 * rng.random()),
            ([x + 50, y, width, height], 0.5 * rng.random()),
        ):
            found = {"image_id": row["image_id"], "category_id": row["category_id"]}
            results.append({**found, "bbox": [round(value, 3) for value in box], "score": round(score, 5)})
    return results


def contestant(dataset: DetectionDataset, label: str, error: float, **changes: Any) -> Contestant:
    """A contestant that finds boxes with an error."""
    made = {
        "label": label,
        "source": label,
        "how": "drawn",
        "variant": "yolov5n",
        "model_digest": f"sha256:{label}",
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "split": "test",
        "names": dataset.names,
        "image_size": 128,
        "settings": {"confidence": 0.001, "iou": 0.7, "augment": False},
        "matches": coco_matches(dataset.annotations("test"), find_boxes(dataset, error=error)),
        "reported": {"map": 0.5, "map50": 0.75},
        "timing": Timing(total_ms=100 * (1.2 - error), conditions="batch 1, device cpu, threads 2, Some CPU"),
    }
    return Contestant(**{**made, **changes})


def study_report(dataset: DetectionDataset, label: str, **changes: Any) -> dict[str, Any]:
    """A report as the study writes it, of one size."""
    point = {"image_size": 128, "map": 0.5, "map50": 0.75, "images": len(dataset.samples("test"))}
    point |= {"coco_ap": 0.5, "coco_ap50": 0.75, "precision": 0.7, "recall": 0.6, "nms_ms": 1.0}
    point |= {"preprocess_ms": 1.0, "inference_ms": 8.0, "total_ms": 10.0}
    report = {
        "variant": label,
        "model_digest": f"sha256:{label}",
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "split": "test",
        "settings": {"batch_size": 1, "precision": "fp32", "confidence": 0.001, "iou": 0.7, "augment": False}
        | {"device": "cpu"},
        "environment": {"cpu": "Some CPU", "threads": 2},
        "points": [point],
        "best": {"image_size": 128, "map": 0.5, "map50": 0.75},
    }
    return {**report, **changes}


def store_result(
    folder: Path, dataset: DetectionDataset, label: str, *, error: float = 0.05, **changes: Any
) -> Path:
    """A folder with detections and report."""
    folder.mkdir(parents=True)
    (folder / "detections.json").write_text(json.dumps(find_boxes(dataset, error=error)))
    (folder / f"{label}.json").write_text(json.dumps(study_report(dataset, label, **changes)))
    return folder
