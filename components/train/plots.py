"""Pictures a person wants to see of a training: curves, labels, the first batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from yolo_core.data.coco import Sample
from yolo_core.engine.clock import PHASES

matplotlib.use("Agg")  # no display on a server

_MOST_BOXES = 20_000
_TIME = "share of the time"
_CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("box_loss", "objectness_loss", "class_loss")),
    ("mAP", ("map50", "map")),
    ("precision and recall", ("precision", "recall")),
    ("learning rate", ("lr", "lr_bias")),
    ("norm of the gradients", ("gradient_norm", "gradient_norm_max")),
    ("images per second", ("images_per_second",)),
    (_TIME, tuple(f"{phase}_share" for phase in PHASES)),
    ("memory of a worker, MB", ("memory_mb", "gpu_memory_mb")),
)


def plot_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw losses, quality, rates, norms, speed, time and memory over the epochs, as far as the rows tell."""
    figure = Figure(figsize=(16, 7), layout="constrained")
    epochs = [row["epoch"] + 1 for row in history]
    marker = "." if len(epochs) < 40 else ""
    for axes, (title, keys) in zip(figure.subplots(2, 4).flat, _CURVES, strict=True):
        told = {key: np.array([row.get(key, np.nan) for row in history]) for key in keys}
        told = {key: values for key, values in told.items() if not np.isnan(values).all()}
        if title == _TIME and len(epochs) > 1:
            axes.stackplot(epochs, *told.values(), labels=told, alpha=0.8)
            axes.set_ylim(0, 1)
        else:
            for key, values in told.items():
                axes.plot(epochs, values, marker=marker, label=key)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if told:
            axes.legend()
    figure.savefig(path, dpi=100)


def plot_labels(samples: Sequence[Sample], names: Sequence[str], path: Path) -> None:
    """Draw how many boxes each class has, where their centres lie, and how large they are."""
    classes = np.concatenate([sample.classes for sample in samples])
    boxes = np.concatenate([_normalised(sample) for sample in samples])
    if len(boxes) > _MOST_BOXES:
        chosen = np.random.default_rng(0).choice(len(boxes), _MOST_BOXES, replace=False)
        classes_shown, boxes = classes, boxes[chosen]
    else:
        classes_shown = classes
    figure = Figure(figsize=(14, 4.5), layout="constrained")
    counts, centres, sizes = figure.subplots(1, 3)
    counts.bar(range(len(names)), np.bincount(classes_shown, minlength=len(names)))
    counts.set(title="boxes per class")
    if len(names) <= 30:
        counts.set_xticks(range(len(names)), names, rotation=90)
    _heat(centres, boxes[:, :2], "centres, share of width and height")
    centres.invert_yaxis()
    _heat(sizes, boxes[:, 2:], "width and height, share of the image's")
    figure.savefig(path, dpi=100)


def _normalised(sample: Sample) -> NDArray[np.float64]:
    """Return (n, 4) centre x, y, w, h as shares of the image's width and height."""
    low, high = sample.boxes[:, :2].astype(float), sample.boxes[:, 2:].astype(float)
    extent = np.array([sample.width, sample.height], float)
    return np.concatenate(((low + high) / 2 / extent, (high - low) / extent), axis=1)


def _heat(axes: Axes, points: NDArray[np.float64], title: str) -> None:
    axes.hist2d(points[:, 0], points[:, 1], bins=40, range=((0, 1), (0, 1)), cmap="Blues")
    axes.set(title=title, aspect="equal")
