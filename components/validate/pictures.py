"""Pictures of what a dataset holds: boxes per class, their sizes, and where they are."""

from __future__ import annotations

import math
from typing import IO, TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from components.plots import plot_classes
from components.validate.tables import Tables
from yolo_core.data.coco import DetectionDataset

if TYPE_CHECKING:
    import pandas as pd

_FEW, _MANY = 12, 48  # cells of the heat map, each way
_SMALL, _LARGE = 32, 96  # pixels: COCO calls boxes below and above small and large


def draw_classes(dataset: DetectionDataset, tables: Tables, target: IO[bytes]) -> None:
    """Draw a bar per class, its splits stacked, as PNG."""
    table = tables.classes
    counts = {split: table.loc[table["split"] == split, "instances"].tolist() for split in dataset.splits}
    plot_classes(dataset.names, counts, target)


def draw_sizes(dataset: DetectionDataset, tables: Tables, target: IO[bytes]) -> None:
    """Draw how large boxes are, in pixels, a line per split, as PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    boxes = _sound(tables)
    sides = np.sqrt(boxes["w"] * boxes["h"])
    edges = np.geomspace(1, max(float(sides.max()) if len(sides) else 1, _LARGE * 2) * 1.01, 41).tolist()
    for split in dataset.splits:
        own = sides[boxes["split"] == split]
        if len(own):
            axes.hist(own, edges, weights=np.full(len(own), 100 / len(own)), histtype="step", label=split)
    for side in (_SMALL, _LARGE):
        axes.axvline(side, color="0.6", linestyle=":", linewidth=1)
        axes.text(side, 1.0, f" {side}", transform=axes.get_xaxis_transform(), va="top", color="0.4")
    axes.set_xscale("log")
    axes.set(xlabel="root of the box's area in pixels", ylabel="percent of the split's boxes")
    if len(sides):
        axes.legend()
    figure.savefig(target, format="png", dpi=100)


def draw_centres(_dataset: DetectionDataset, tables: Tables, target: IO[bytes]) -> None:
    """Draw where in their images the centres of all boxes are, as PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    boxes = _sound(tables)
    across = (boxes["x"] + boxes["w"] / 2) / boxes["width"]
    down = (boxes["y"] + boxes["h"] / 2) / boxes["height"]
    cells = int(np.clip(math.sqrt(len(boxes) / 8), _FEW, _MANY))
    counts, _, _ = np.histogram2d(down, across, cells, [(0, 1), (0, 1)])
    shown = axes.imshow(counts, cmap="magma", extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
    axes.set(xlabel="left to right, share of the width", ylabel="top to bottom, share of the height")
    figure.colorbar(shown, ax=axes, label="boxes")
    figure.savefig(target, format="png", dpi=100)


def _sound(tables: Tables) -> pd.DataFrame:
    """Return the boxes that have a size and an image."""
    table = tables.annotations
    there = table["finite"] & (table["shorter_side"] > 0) & (table["width"] > 0) & (table["iscrowd"] != 1)
    return table[there]
