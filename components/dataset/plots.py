"""How many boxes each class has, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from yolo_core.data.coco import DetectionDataset

_BAR = 0.22  # inches per class


def count_boxes(dataset: DetectionDataset) -> dict[str, list[int]]:
    """Return per split the number of boxes of each class index, crowd boxes included."""
    counts = {}
    for split in dataset.splits:
        classes = np.concatenate([sample.classes for sample in dataset.samples(split)])
        counts[split] = [int(count) for count in np.bincount(classes, minlength=len(dataset.names))]
    return counts


def plot_classes(names: tuple[str, ...], counts: Mapping[str, list[int]], target: Path) -> Path:
    """Draw a bar per class, its splits stacked, to an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, max(2.5, _BAR * len(names) + 1)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    start = np.zeros(len(names))
    for split, numbers in counts.items():
        axes.barh(places, numbers, left=start, label=f"{split} ({sum(numbers):,})")
        start = start + np.array(numbers)
    axes.set_yticks(places, labels=names)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("boxes")
    axes.legend()
    figure.savefig(target, dpi=100)
    return target
