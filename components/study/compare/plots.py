"""Plots of a comparison as SVG that lies in a page: drawn in the page's ink, so readable dark and light."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.study.compare.contrast import Contrast, Standing
from yolo_core.metrics.bootstrap import FEWEST_IMAGES, Difference, Interval

matplotlib.use("Agg")  # no display on a server

MOST_CLASSES = 24  # in a plot; the table has all
COLOURS = {"win": "#2a9d4a", "lose": "#d9483b", "undecided": "#8a8f98"}
_INK = "#0b0c0d"  # stands for the page's own colour of text
_WIDTH, _ROW = 8.0, 0.34  # inches
_STYLE: Any = {
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def plot_intervals(result: Contrast) -> str:
    """Draw AP and AP50 of every model with their intervals."""
    labels = [standing.contestant.label for standing in result.standings]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        columns = (
            (left, "AP, %", [standing.intervals.ap for standing in result.standings]),
            (right, "AP50, %", [standing.intervals.ap50 for standing in result.standings]),
        )
        for axes, title, intervals in columns:
            for row, interval in enumerate(intervals):
                _bar(axes, row, interval, f"C{row % 10}")
            _rows(axes, labels, title)

    return _svg("intervals", len(labels), draw)


def plot_differences(result: Contrast) -> str:
    """Draw how far every other model is from the first, in AP and AP50."""
    others = [(each.contestant.label, each.difference) for each in result.standings if each.difference]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        columns = (
            (left, "AP", [difference.ap for _, difference in others]),
            (right, "AP50", [difference.ap50 for _, difference in others]),
        )
        for axes, title, differences in columns:
            for row, difference in enumerate(differences):
                _bar(axes, row, difference, COLOURS[difference.verdict])
            _zero(axes)
            axes.set_title(title, fontsize=10)
            _rows(axes, [label for label, _ in others], "points more than the first")

    return _svg("differences", len(others), draw)


def plot_classes(result: Contrast, standing: Standing) -> str:
    """Draw the classes of `largest_changes`, the best for it at the top.

    Classes that few images hold are hollow: they decide nothing.
    """
    chosen = largest_changes(result, standing)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (_, difference) in enumerate(chosen):
            _bar(axes, row, difference, COLOURS[difference.verdict], full=difference.images >= FEWEST_IMAGES)
        _zero(axes)
        axes.set_title(f"AP of {standing.contestant.label}", fontsize=10)
        _rows(axes, [name for name, _ in chosen], "points more than the first")

    return _svg(f"classes of {standing.contestant.label}", len(chosen), draw)


def largest_changes(result: Contrast, standing: Standing) -> list[tuple[str, Difference]]:
    """Return the classes that differ most from the first model's, from best to worst, 24 at most.

    Those in enough images for a verdict come before the others, whose differences are mostly larger.
    """
    differences = standing.difference.class_ap if standing.difference else ()
    held = [(name, each) for name, each in zip(result.names, differences, strict=True) if each is not None]
    chosen = sorted(held, key=lambda pair: (pair[1].images < FEWEST_IMAGES, -abs(pair[1].value)))
    return sorted(chosen[:MOST_CLASSES], key=lambda pair: -pair[1].value)


def plot_speed(result: Contrast) -> str:
    """Draw AP with its interval over milliseconds per image, of the models whose times are known."""
    timed = [(row, each) for row, each in enumerate(result.standings) if each.contestant.timing]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, standing in timed:
            timing, ap = standing.contestant.timing, standing.intervals.ap
            assert timing is not None
            low, high = ap.value - ap.low, ap.high - ap.value
            axes.errorbar(
                timing.total_ms,
                100 * ap.value,
                yerr=[[100 * max(low, 0)], [100 * max(high, 0)]],
                fmt="o",
                color=f"C{row % 10}",
                capsize=4,
                label=standing.contestant.label,
            )
        axes.set(xlabel="milliseconds per image", ylabel="AP, %")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25, color=_INK)
        axes.legend(framealpha=0, loc="best")

    return _svg("speed", 9, draw)


def _bar(axes: Axes, row: int, interval: Interval, colour: str, *, full: bool = True) -> None:
    """Draw a value with its interval; the ends stand for themselves, as a value may lie outside of them."""
    axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=colour, linewidth=2.2)
    filling = "full" if full else "none"
    axes.plot(100 * interval.value, row, "o", color=colour, markersize=6, fillstyle=filling)


def _zero(axes: Axes) -> None:
    axes.axvline(0, color=_INK, linewidth=0.8, linestyle="--")


def _rows(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_yticks(np.arange(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(title)
    axes.grid(axis="x", alpha=0.25, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(name: str, rows: int, draw: Callable[[Figure], None]) -> str:
    """Return a figure as an SVG element without anything that refers to outside of it."""
    with _page_style(name):
        figure = Figure(figsize=(_WIDTH, 0.9 + _ROW * max(rows, 2)), layout="constrained")
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    drawn = target.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", drawn).replace("xlink:href", "href")
    drawn = re.sub(
        r' id="(figure|axes|patch|line2d|text|matplotlib|xtick|ytick|Line|legend)[^"]*"', "", drawn
    )
    return drawn.replace(_INK, "currentColor").replace("<svg", '<svg class="plot" role="img"', 1)


@contextmanager
def _page_style(name: str) -> Iterator[None]:
    """Draw in the page's ink, with ids that no other plot of the page has."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield
