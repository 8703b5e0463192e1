"""Pictures of a study: precision over recall, and accuracy against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from yolo_core.metrics.average_precision import DetectionMetrics

matplotlib.use("Agg")  # no display on a server

_MOST_LINES = 20  # classes drawn one by one
# (milliseconds, AP) of EfficientDet D0 to D5 on COCO val2017, V100, batch 8: the release's reference curve.
EFFICIENTDET = ((4.8, 34.6), (7.1, 40.5), (10.3, 43.0), (17.2, 47.5), (28.6, 49.7), (55.6, 51.5))
_COCO_CLASSES = 80


def plot_pr_curves(metrics: DetectionMetrics, names: Sequence[str], path: Path) -> None:
    """Draw precision over recall at IoU .5, per class and their mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, metrics.pr_curve.shape[1])
    if len(metrics.classes) <= _MOST_LINES:
        for row, index in enumerate(metrics.classes):
            label = f"{names[int(index)]} {metrics.ap[row, 0]:.3f}"
            axes.plot(recall, metrics.pr_curve[row], linewidth=1, label=label)
    if len(metrics.classes):
        mean = f"mean {metrics.map50:.3f}"
        axes.plot(recall, metrics.pr_curve.mean(0), linewidth=3, color="black", label=mean)
        axes.legend(title="AP at IoU .5", fontsize=8, loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="precision and recall")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_study(reports: Sequence[Mapping[str, Any]], metric: str, path: Path, num_classes: int) -> None:
    """Draw accuracy against milliseconds per image: a line per variant, a point per image size.

    Each line ends at the variant's best accuracy: larger images past it cost time and give nothing. On
    COCO's classes the release's EfficientDet curve is drawn too.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for report in reports:
        points = until_best(report["points"], metric)
        times = [total_ms(point) for point in points]
        values = [100 * point[metric] for point in points]
        axes.plot(times, values, marker="o", label=report["variant"])
        for point, time, value in zip(points, times, values, strict=True):
            axes.annotate(str(point["image_size"]), (time, value), textcoords="offset points", xytext=(4, -10))
    if num_classes == _COCO_CLASSES and metric in ("map", "coco_ap"):
        times, values = zip(*EFFICIENTDET, strict=True)
        axes.plot(times, values, marker="o", color="lightgrey", label="EfficientDet D0-D5, V100 (published)")
    axes.set(xlabel="ms per image: pre-process + inference + NMS", ylabel=f"{metric}, %", title="study")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def until_best(points: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Return the points by rising image size, up to the best one."""
    ordered = sorted(points, key=lambda point: int(point["image_size"]))
    best = max(range(len(ordered)), key=lambda index: float(ordered[index][metric]))
    return ordered[: best + 1]


def total_ms(point: Mapping[str, Any]) -> float:
    """Milliseconds per image of all three parts."""
    return float(point["preprocess_ms"] + point["inference_ms"] + point["nms_ms"])
