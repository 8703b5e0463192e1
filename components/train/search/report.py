"""What a search leaves behind: a table, a picture, and a params file with the best values."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from components.train.search.space import SETTINGS, Dimension, Point
from components.train.search.trials import Outcome

matplotlib.use("Agg")  # no display on a server

_FIGURES = ("fitness", "map50", "map", "best_epoch", "epochs", "ended")
_PLATE = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
_FEWEST = 4
"""Trials from which a rank correlation says anything."""


def best_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the trial with the highest fitness; the earlier one of two equal ones."""
    return max(outcomes, key=lambda outcome: (outcome.fitness, -outcome.number))


def importance(
    space: Sequence[Dimension], points: Sequence[Point], outcomes: Sequence[Outcome]
) -> dict[str, float]:
    """Return Spearman's rank correlation of each ordered dimension with the fitness, -1..1.

    Trials that were stopped early count with what they had. Dimensions of choices without an order, and
    points that leave one out, are left out; so is a dimension with fewer than four trials.
    """
    found = {}
    for one in space:
        pairs = [
            (points[outcome.number][one.name], outcome.fitness)
            for outcome in outcomes
            if one.name in points[outcome.number]
        ]
        values = [value for value, _ in pairs]
        if len(pairs) >= _FEWEST and all(isinstance(value, int | float) for value in values):
            ranks = (_ranks(values), _ranks([fitness for _, fitness in pairs]))
            spread = [float(rank.std()) for rank in ranks]
            if min(spread) > 0:
                found[one.name] = float(np.corrcoef(*ranks)[0, 1])
    return found


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return ranks from 0, equal values with the mean of theirs."""
    array = np.asarray(values, float)
    ordered = np.sort(array)
    low = np.searchsorted(ordered, array, "left")
    return (low + np.searchsorted(ordered, array, "right") - 1) / 2


def write_table(
    path: Path, space: Sequence[Dimension], points: Sequence[Point], outcomes: Sequence[Outcome]
) -> None:
    """Write a row per trial, best first; what a point leaves as the params have it is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", *_FIGURES, *(one.name for one in space)])
        for outcome in sorted(outcomes, key=lambda each: -each.fitness):
            figures = [getattr(outcome, key) for key in _FIGURES]
            shown = [f"{value:.6g}" if isinstance(value, float) else value for value in figures]
            point = points[outcome.number]
            table.writerow([outcome.number + 1, *shown, *(point.get(one.name, "") for one in space)])


def draw(
    path: Path, space: Sequence[Dimension], points: Sequence[Point], outcomes: Sequence[Outcome]
) -> None:
    """Draw parallel coordinates, a line per trial coloured by fitness, and each dimension's correlation."""
    width = max(7.0, 1.5 * len(space) + 2)
    figure = Figure(figsize=(width + 4, 5.0), layout="constrained")
    lines, bars = figure.subplots(1, 2, width_ratios=(width, 4))
    colours = Normalize(*_ends([outcome.fitness for outcome in outcomes]))
    mappable = ScalarMappable(norm=colours, cmap="viridis")
    _draw_lines(lines, space, points, outcomes, mappable)
    figure.colorbar(mappable, ax=lines, label="best fitness of the trial", pad=0.02)
    _draw_importance(bars, importance(space, points, outcomes))
    figure.savefig(path, dpi=100)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low, high if high > low else low + 1e-6


def _draw_lines(
    axes: Axes,
    space: Sequence[Dimension],
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    mappable: ScalarMappable,
) -> None:
    best = best_of(outcomes)
    for outcome in sorted(outcomes, key=lambda each: each.fitness):
        point = points[outcome.number]
        if not point:
            continue  # the params as they are: they have no place on the axes
        heights = [_height(one, point[one.name]) for one in space]
        strong = outcome.number == best.number
        axes.plot(
            range(len(space)),
            heights,
            color=mappable.to_rgba(np.asarray(outcome.fitness)),
            linewidth=3.0 if strong else 1.4,
            linestyle="--" if outcome.ended == "stopped" else "-",
            marker="o",
            markersize=6 if strong else 3,
            zorder=3 if strong else 2,
        )
    for index, one in enumerate(space):
        axes.axvline(index, color="0.8", zorder=1)
        for height, text in _marks(one):
            axes.text(index + 0.03, height, text, fontsize=8, color="0.2", va="center", zorder=4, bbox=_PLATE)
    base = next((each for each in outcomes if not points[each.number]), None)
    said = f"; the params as they are: {base.fitness:.3f}" if base else ""
    title = f"best: trial {best.number + 1}, fitness {best.fitness:.3f}{said}"
    axes.set(title=f"{title}\n(dashed: stopped early)", ylim=(-0.06, 1.06), xlim=(-0.2, len(space) - 0.6))
    axes.set_xticks(range(len(space)), [one.name for one in space])
    axes.set_yticks([])


def _height(one: Dimension, value: Any) -> float:
    """Return where on its axis, 0..1, a value lies."""
    if one.choices:
        return one.choices.index(value) / max(len(one.choices) - 1, 1)
    if one.log:
        return math.log(value / one.low) / math.log(one.high / one.low)
    return float((value - one.low) / (one.high - one.low))


def _marks(one: Dimension) -> list[tuple[float, str]]:
    if one.choices:
        return [(_height(one, value), str(value)) for value in one.choices]
    return [(0.0, f"{one.low:g}"), (1.0, f"{one.high:g}")]


def _draw_importance(axes: Axes, found: Mapping[str, float]) -> None:
    axes.set(title="rank correlation with fitness", xlim=(-1, 1))
    axes.axvline(0, color="0.6")
    axes.grid(axis="x", alpha=0.3)
    if not found:
        axes.text(0, 0.5, "too few trials", ha="center", va="center", color="0.4")
        axes.set_yticks([])
        return
    names = sorted(found, key=lambda name: abs(found[name]))
    values = [found[name] for name in names]
    axes.barh(names, values, color=["tab:green" if value > 0 else "tab:red" for value in values])


def write_params(source: Path, target: Path, point: Point) -> None:
    """Copy a params file with a point in its section ``train``; comments and layout stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken that was not
    yaml.representer.add_representer(
        type(None), lambda maker, _: maker.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(source.read_text(encoding="utf-8"))
    train = document["train"]
    for name, value in point.items():
        if name in SETTINGS:
            train[name] = value
        else:
            train["overrides"][name] = value
            train["overrides"].fa.set_flow_style()
    with target.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
