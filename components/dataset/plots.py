"""How many boxes each class has."""

from __future__ import annotations

import numpy as np

from yolo_core.data.coco import DetectionDataset


def count_boxes(dataset: DetectionDataset) -> dict[str, list[int]]:
    """Return per split the number of boxes of each class index, crowd boxes included."""
    counts = {}
    for split in dataset.splits:
        classes = np.concatenate([sample.classes for sample in dataset.samples(split)])
        counts[split] = [int(count) for count in np.bincount(classes, minlength=len(dataset.names))]
    return counts
