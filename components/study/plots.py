"""The plots of a comparison: accuracy against time as in the release, against size, and against cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

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
_EFFICIENTDET_NAME = "EfficientDet D0-D5 (published, V100, batch 8)"
_SCALES = "nsmlx"
_VARIANT = re.compile(r"yolov5([nsmlx])(6?)")
_COLUMNS = 5  # of the legend
_MOST_LABELS = 12  # points whose sizes are written beside them; of more only the best of each model


def plot_study(reports: Sequence[Report], metric: str, path: Path) -> None:
    """Draw accuracy against milliseconds per image, image size, operations and parameters.

    The first is the release's plot: each line begins at the second size and ends at its model's best: larger
    images past it cost time and give nothing. EfficientDet's published curve is drawn only beside
    studies of COCO val2017, which it is about.
    """
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.55, 1))
    times = figure.add_subplot(grid[0, :])
    small = [figure.add_subplot(grid[1, column]) for column in range(3)]
    _draw_times(times, reports, metric)
    _draw_sizes(small[0], reports, metric)
    _draw_operations(small[1], reports, metric)
    _draw_parameters(small[2], reports, metric)
    for axes in (times, *small):
        axes.set_ylabel(f"{AXIS_NAMES[metric]}, %", fontsize=None if axes is times else 9)
        axes.margins(y=0.12)
        axes.grid(alpha=0.3)
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(_COLUMNS, len(labels)))
    figure.savefig(path, dpi=100)


def shows_efficientdet(reports: Sequence[Report], metric: str) -> bool:
    """Whether EfficientDet's published AP is of the same data and metric as the studies."""
    return metric in ("map", "coco_ap") and all(report.get("coco_val2017") for report in reports)


def until_best(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points by rising image size, up to the best one."""
    ordered = sorted(points, key=lambda point: int(point["image_size"]))
    best = max(range(len(ordered)), key=lambda index: float(ordered[index][metric]))
    return ordered[: best + 1]


def release_points(points: Sequence[Point], metric: str) -> list[Point]:
    """Return the points that the release's plot shows: from the second size to the best one.

    Where that leaves none, as the first size is the best, or there are two at most, the first is shown too.
    """
    shown = until_best(points, metric)
    return shown[1:] if len(points) > 2 and len(shown) > 1 else shown


def total_ms(point: Point) -> float:
    """Milliseconds per image of preparation, model and suppression together."""
    return float(point["preprocess_ms"] + point["inference_ms"] + point["nms_ms"])


def _draw_times(axes: Axes, reports: Sequence[Report], metric: str) -> None:
    shown = [release_points(report["points"], metric) for report in reports]
    labelled = sum(map(len, shown)) <= _MOST_LABELS
    for index, (report, points) in enumerate(zip(reports, shown, strict=True)):
        times, values = [total_ms(point) for point in points], _values(points, metric)
        axes.plot(times, values, label=str(report["variant"]), **_style(report, index))
        for place in range(len(points)) if labelled else [-1]:
            _annotate(axes, str(points[place]["image_size"]), (times[place], values[place]))
    if shows_efficientdet(reports, metric):
        published, precise = zip(*EFFICIENTDET, strict=True)
        axes.plot(published, precise, marker="o", color="0.65", label=_EFFICIENTDET_NAME)
    first = reports[0]
    settings, place = first["settings"], first["environment"]
    where = place.get("gpu") or f"{place['cpu']}, threads: {place['threads']}"
    axes.set_title(f"{first['dataset']}, {first['split']} split: {AXIS_NAMES[metric]} over time per image")
    numbers = "image sizes" if labelled else "best sizes"
    axes.set_xlabel(
        f"milliseconds per image: preparation, model and suppression; {numbers} in pixels at the points\n"
        f"batch {settings['batch_size']}, {settings['precision']}, {where}"
    )
    axes.set_xlim(left=0)


def _draw_sizes(axes: Axes, reports: Sequence[Report], metric: str) -> None:
    _draw_lines(axes, reports, metric, lambda _report, size: size)
    axes.set_xlabel("image size, pixels", fontsize=9)


def _draw_operations(axes: Axes, reports: Sequence[Report], metric: str) -> None:
    """Operations grow with the area of the image; those of a rectangle are fewer than the square's."""
    known = [report for report in reports if report["gflops_640"] is not None]
    _draw_lines(axes, known, metric, lambda report, size: report["gflops_640"] * (size / 640) ** 2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8, labelrotation=45)
    axes.set_xlabel("GFLOPs for a square of that size", fontsize=9)


def _draw_parameters(axes: Axes, reports: Sequence[Report], metric: str) -> None:
    """Draw each model's best accuracy."""
    largest = 0.0
    for index, report in enumerate(reports):
        if report["parameters"] is not None:
            millions = report["parameters"] / 1e6
            largest = max(largest, millions)
            axes.plot([millions], [max(_values(report["points"], metric))], **_style(report, index))
    axes.set_xlim(0, 1.1 * largest or 1)
    axes.set_xlabel("million parameters (best size of each)", fontsize=9)


def _draw_lines(
    axes: Axes, reports: Sequence[Report], metric: str, place: Callable[[Report, int], float]
) -> None:
    """Draw all sizes of each model, those past its best too."""
    for index, report in enumerate(reports):
        points = sorted(report["points"], key=lambda point: int(point["image_size"]))
        places = [place(report, int(point["image_size"])) for point in points]
        axes.plot(places, _values(points, metric), **{**_style(report, index), "markersize": 4})


def _values(points: Sequence[Point], metric: str) -> list[float]:
    return [100 * float(point[metric]) for point in points]


def _style(report: Report, index: int) -> dict[str, Any]:
    """Return colour and marks: the P6 models share the colour of their size; others come after those."""
    found = _VARIANT.fullmatch(str(report["variant"]))
    if found is None:
        return {"color": f"C{len(_SCALES) + index % len(_SCALES)}", "marker": "^", "ls": "-."}
    large = bool(found[2])
    return {
        "color": f"C{_SCALES.index(found[1])}",
        "marker": "s" if large else "o",
        "ls": "--" if large else "-",
    }


def _annotate(axes: Axes, text: str, place: tuple[float, float]) -> None:
    axes.annotate(
        text,
        place,
        textcoords="offset points",
        xytext=(0, 7),
        ha="center",
        fontsize=8,
        color="0.35",
    )
