"""The plot of a comparison: accuracy against time, a line per variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

matplotlib.use("Agg")  # no display on a server

Point = Mapping[str, Any]
Report = Mapping[str, Any]

AXIS_NAMES = {
    "map": "mAP@.5:.95",
    "map50": "mAP@.5",
    "coco_ap": "AP@.5:.95 by COCO's evaluation",
    "coco_ap50": "AP@.5 by COCO's evaluation",
}
# (milliseconds, AP) of D0 to D5 on COCO val2017, V100, batch 8: the release's plot shows it beside its own.
EFFICIENTDET = ((4.8, 34.6), (7.1, 40.5), (10.3, 43.0), (17.2, 47.5), (28.6, 49.7), (55.6, 51.5))
_SCALES = "nsmlx"


def plot_study(reports: Sequence[Report], metric: str, path: Path) -> None:
    """Draw accuracy against milliseconds per image, a point per image size.

    Each line ends at its variant's best accuracy: larger images past it cost time and give nothing.
    EfficientDet's published curve is drawn only beside studies of COCO val2017, which it is about.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for report in reports:
        _draw_variant(axes, report, metric)
    if shows_efficientdet(reports, metric):
        times, values = zip(*EFFICIENTDET, strict=True)
        axes.plot(
            times, values, marker="o", color="0.75", label="EfficientDet D0-D5 (published, V100, batch 8)"
        )
    first = reports[0]
    settings, place = first["settings"], first["environment"]
    where = place.get("gpu") or f"{place['cpu']}, threads: {place['threads']}"
    axes.set_title(f"{first['dataset']}, {first['split']} split: {AXIS_NAMES[metric]} over time per image")
    axes.set_xlabel(
        "milliseconds per image: preparation, model and suppression\n"
        f"batch {settings['batch_size']}, {settings['precision']}, {where}"
    )
    axes.set_ylabel(f"{AXIS_NAMES[metric]}, %")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def shows_efficientdet(reports: Sequence[Report], metric: str) -> bool:
    """Whether EfficientDet's published AP is of the same data and metric as the studies."""
    return metric in ("map", "coco_ap") and all(report.get("coco_val2017") for report in reports)


def until_best(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points by rising image size, up to the best one."""
    ordered = sorted(points, key=lambda point: int(point["image_size"]))
    best = max(range(len(ordered)), key=lambda index: float(ordered[index][metric]))
    return ordered[: best + 1]


def total_ms(point: Point) -> float:
    """Milliseconds per image of preparation, model and suppression together."""
    return float(point["preprocess_ms"] + point["inference_ms"] + point["nms_ms"])


def _draw_variant(axes: Axes, report: Report, metric: str) -> None:
    points = until_best(report["points"], metric)
    times = [total_ms(point) for point in points]
    values = [100 * float(point[metric]) for point in points]
    name = str(report["variant"])
    large = name.endswith("6")  # the P6 models share the colour of their size
    scale = name.removesuffix("6")[-1]
    colour = f"C{_SCALES.index(scale)}" if scale in _SCALES else None
    axes.plot(
        times, values, marker="s" if large else "o", ls="--" if large else "-", color=colour, label=name
    )
    for point, time, value in zip(points, times, values, strict=True):
        axes.annotate(
            f"{point['image_size']}",
            (time, value),
            textcoords="offset points",
            xytext=(0, 7),
            ha="center",
            fontsize=8,
            color="0.35",
        )
