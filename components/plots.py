"""Pictures that several stages draw: what an evaluation found, and boxes per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from yolo_core.metrics.average_precision import CONFIDENCES, DetectionMetrics
from yolo_core.metrics.calibration import Reliability
from yolo_core.metrics.error_breakdown import ErrorBreakdown

matplotlib.use("Agg")  # no display on a server

Curve = Literal["precision", "recall", "F1"]

_MOST_NUMBERS, _MOST_LABELS = 30, 100  # classes; more do not fit in full size, or at all
_MOST_CURVES = 20
_BAR = 0.22  # inches per class


def plot_confusion(
    matrix: NDArray[Any], names: Sequence[str], path: Path, *, normalised: bool = True
) -> None:
    """Draw a confusion matrix (nc + 1, nc + 1), rows predicted and columns true.

    The last row holds what was missed, the last column what was found where nothing is. Colours are shares of
    the columns; so are the numbers if ``normalised``, else they are counts.
    """
    shares = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1)
    labels = [*names, "background"]
    size = max(5.0, min(0.45 * len(labels) + 2, 24.0))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= _MOST_LABELS:
        small = 7 if len(labels) <= _MOST_NUMBERS else 4.5
        for row, column in np.argwhere(shares >= 0.005 if normalised else matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = f"{shares[row, column]:.2f}" if normalised else f"{matrix[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=small, color=colour)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
    unit = "shares of what is true" if normalised else "counts"
    axes.set(xlabel="true", ylabel="predicted")
    axes.set_title(f"confusion at confidence 0.25, IoU 0.45: {unit}", fontsize=9 if size < 8 else 12)
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
        _legend(figure, axes, labelled, title="AP at IoU .5")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision over recall")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_against_confidence(metrics: DetectionMetrics, names: Sequence[str], what: Curve, path: Path) -> None:
    """Draw precision, recall or F1 over the confidence, at IoU .5: a line per class and their mean."""
    curves = {"precision": metrics.precision_curve, "recall": metrics.recall_curve, "F1": metrics.f1_curve}
    values = curves[what]
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    labelled = len(metrics.classes) <= _MOST_CURVES
    for index, line in zip(metrics.classes.tolist(), values, strict=True):
        label = names[index] if labelled else None
        axes.plot(CONFIDENCES, line, linewidth=1, color=None if labelled else "0.8", label=label)
    if len(metrics.classes):
        mean, best = values.mean(0), metrics.best_index
        at = f"{mean[best]:.3f} at {metrics.best_confidence:.3f}"
        axes.plot(CONFIDENCES, mean, linewidth=3, color="black", label=f"all classes {at}")
        axes.axvline(metrics.best_confidence, color="0.4", linestyle=":", label="best mean F1")
        _legend(figure, axes, labelled)
    axes.set(xlabel="confidence", ylabel=what, xlim=(0, 1), ylim=(0, 1.02), title=f"{what} over confidence")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_calibration(curve: Reliability, errors: tuple[float, float], confidence: float, path: Path) -> None:
    """Draw precision over score, and beside it how many detections each bin holds.

    Args:
        curve: of all detections.
        errors: expected calibration error, of all detections and of those from ``confidence`` on.
        confidence: from which the detector would be used.
        path: of the PNG.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    curves, counts = figure.subplots(1, 2)
    held, width = curve.counts > 0, curve.edges[1] - curve.edges[0]
    curves.plot((0, 1), (0, 1), color="0.6", linestyle="--", label="scores mean what they say")
    curves.bar(curve.edges[:-1][held], curve.precision[held], width, align="edge", alpha=0.35)
    curves.plot(curve.score[held], curve.precision[held], marker="o", label="share that is right")
    curves.axvline(confidence, color="0.4", linestyle=":", label=f"best mean F1 ({confidence:.3f})")
    curves.set(xlabel="score", ylabel="precision at IoU .5", xlim=(0, 1), ylim=(0, 1.02))
    curves.set_title(f"calibration error {errors[0]:.3f}, from the best F1 on {errors[1]:.3f}", fontsize=10)
    curves.legend(loc="upper left", fontsize=8)
    counts.bar(curve.edges[:-1], curve.counts, width, align="edge", edgecolor="white")
    counts.set(xlabel="score", ylabel="detections", xlim=(0, 1))
    if curve.counts.any():
        counts.set_yscale("log")
    for axes in (curves, counts):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_errors(every: ErrorBreakdown, used: ErrorBreakdown, confidence: float, path: Path) -> None:
    """Draw what AP each kind of error costs, and how often it occurs from a confidence on."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    costs, counts = figure.subplots(1, 2, sharey=True)
    kinds = list(every.kinds)
    losses = [every.kinds[kind].ap_loss for kind in kinds]
    numbers = [used.kinds[kind].count for kind in kinds]
    bars = costs.barh(kinds, losses, color="#b5544a")
    costs.bar_label(bars, [f"{value:.3f}" for value in losses], padding=3, fontsize=9)
    costs.set(title=f"AP at IoU .5 (now {every.ap50:.3f}) that fixing it would win", xlabel="AP")
    bars = counts.barh(kinds, numbers, color="#4a7ab5")
    counts.bar_label(bars, padding=3, fontsize=9)
    counts.set(title=f"how many from confidence {confidence:.3f} on", xlabel="errors")
    costs.invert_yaxis()
    for axes in (costs, counts):
        axes.margins(x=0.15)
        axes.grid(alpha=0.3, axis="x")
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


def plot_exports(formats: Mapping[str, Mapping[str, Any]], pytorch: Mapping[str, Any], path: Path) -> None:
    """Draw each export's AP, with the interval of its difference to PyTorch, over milliseconds per picture.

    The AP drawn is PyTorch's, as validation measures it, plus the difference, so that formats that suppress
    inside the file, and are compared with another suppression, stand on the same scale.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    base = float(pytorch.get("ap", 0.0))
    if pytorch.get("detect_ms"):
        axes.plot([pytorch["detect_ms"]], [100 * base], "k*", markersize=13, label="PyTorch")
    axes.axhline(100 * base, color="0.6", linestyle="--", linewidth=1)
    marks = {"fp32": "o", "fp16": "s", "bf16": "D", "int8": "^"}
    for index, (name, row) in enumerate(formats.items()):
        colour = matplotlib.colormaps["tab20"](index)
        if row.get("detect_ms") is None or "ap_difference" not in row:
            continue
        value, low, high = (100 * row[f"ap_difference{end}"] for end in ("", "_low", "_high"))
        axes.errorbar(
            [row["detect_ms"]],
            [100 * base + value],
            yerr=[[max(value - low, 0)], [max(high - value, 0)]],
            marker=marks.get(str(row["precision"]), "x"),
            color=colour,
            markerfacecolor=colour if row["verdict"] == "PASS" else "none",
            capsize=3,
            linestyle="none",
            label=f"{name} ({row['precision']})",
        )
    axes.set(xlabel="milliseconds from picture to detections", ylabel="AP@.5:.95, points", xlim=(0, None))
    axes.set_title(
        "AP over time; hollow: not passed; bars: interval of the difference to PyTorch", fontsize=10
    )
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=100)


def _legend(figure: Figure, axes: Axes, outside: bool, title: str = "") -> None:
    """Put the legend beside the plot where every class has a line in it, else inside."""
    if outside:
        figure.legend(loc="outside right upper", title=title, fontsize=8)
    else:
        axes.legend(loc="upper right", title=title, fontsize=8)
