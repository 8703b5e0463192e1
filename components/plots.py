"""Pictures that several stages draw: confusion, precision over recall, and boxes per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from yolo_core.metrics.average_precision import DetectionMetrics

matplotlib.use("Agg")  # no display on a server

_MOST_NUMBERS, _MOST_LABELS = 30, 100  # classes; more do not fit
_MOST_CURVES = 20
_BAR = 0.22  # inches per class


def plot_confusion(matrix: NDArray[Any], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix (nc + 1, nc + 1), rows predicted and columns true, by columns' shares.

    The last row holds what was missed, the last column what was found where nothing is.
    """
    shares = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1)
    labels = [*names, "background"]
    size = max(5.0, min(0.45 * len(labels) + 2, 24.0))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= _MOST_NUMBERS:
        for row, column in np.argwhere(shares >= 0.005):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{shares[row, column]:.2f}", ha="center", va="center", fontsize=7, color=colour
            )
    if len(labels) <= _MOST_LABELS:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="true", ylabel="predicted", title="confusion at confidence 0.25, IoU 0.45")
    figure.savefig(path, dpi=90)


def plot_precision_recall(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> None:
    """Draw precision over recall at IoU .5: a line per class and their mean; many classes are drawn grey."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, metrics.pr_curve.shape[1])
    labelled = len(metrics.classes) <= _MOST_CURVES
    for row, index in enumerate(metrics.classes):
        label = f"{names[int(index)]} {metrics.ap[row, 0]:.3f}" if labelled else None
        axes.plot(recall, metrics.pr_curve[row], linewidth=1, color=None if labelled else "0.8", label=label)
    if len(metrics.classes):
        mean = metrics.pr_curve.mean(axis=0)
        axes.plot(recall, mean, linewidth=3, color="black", label=f"all classes {metrics.map50:.3f}")
        figure.legend(loc="outside right upper", title="AP at IoU .5", fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision over recall")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_classes(names: tuple[str, ...], counts: Mapping[str, list[int]], target: Path | IO[bytes]) -> None:
    """Draw a bar per class, its splits stacked, to a file or stream as PNG."""
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
    figure.savefig(target, format="png", dpi=100)
