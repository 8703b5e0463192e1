"""Distributions of a dataset's properties, and how far two of them are apart.

``statistics.json`` holds counts per bin of the training split. Bins are fixed, so the counts of two
versions can be compared long after one of them is gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # of statistics.json; raise it when a bin changes
Counts = Mapping[str, int]
_Floats = NDArray[np.float64]

# Edges of bins; what is beyond the ends falls into the first or last.
_SIZES = (0.01, 0.02, 0.04, 0.06, 0.09, 0.13, 0.2, 0.3, 0.45, 0.65)  # root of the share of the image
_SHAPES = tuple(2.0**power for power in (-2, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2))  # width over height
_NUMBERS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5)
_SIDES = (160, 320, 480, 640, 960, 1280, 1920, 3840)  # pixels, root of width times height
_GREYS = tuple(range(16, 256, 16))


def describe_split(
    annotations: pd.DataFrame, images: pd.DataFrame, names: Mapping[int, str]
) -> dict[str, Counts]:
    """Count boxes and images of one split per bin of each property; crowds and broken boxes are left out.

    Args:
        annotations: the split's rows of the table of annotations.
        images: its rows of the table of images.
        names: category id -> class name.
    """
    boxes = annotations[
        (annotations["iscrowd"] != 1) & annotations["finite"] & (annotations["shorter_side"] > 0)
    ]
    width, height, *image = (_numbers(boxes[key]) for key in ("w", "h", "width", "height"))
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes, shapes = np.sqrt(width * height / (image[0] * image[1])), width / height
    per_image = images["image_id"].map(boxes["image_id"].value_counts()).fillna(0)
    sides = np.sqrt(_numbers(images["width"]) * _numbers(images["height"]))
    known = boxes["category_id"].map(names)
    return {
        "classes": {str(name): int(count) for name, count in known.value_counts().sort_index().items()},
        "box_sizes": _count(sizes, _SIZES),
        "box_shapes": _count(shapes, _SHAPES),
        "boxes_per_image": _count(_numbers(per_image), _NUMBERS),
        "image_sizes": _count(sides, _SIDES),
        "brightness": _count(_numbers(images["brightness"]), _GREYS),
    }


def distance(first: Counts, second: Counts) -> float:
    """Return the Jensen-Shannon distance of two distributions given as counts: 0 alike, 1 disjoint.

    It is the root of the divergence to base 2 (Lin, "Divergence measures based on the Shannon entropy",
    1991). Two samples of one distribution with k bins differ by (k - 1) / (8 ln 2) * (1/n + 1/m) on
    average (second-order expansion), which is taken off first, so that small samples do not cry wolf.
    Without any counts on a side nothing can be said: 0.
    """
    keys = sorted(first.keys() | second.keys())
    one, two = (np.array([counts.get(key, 0) for key in keys], np.float64) for counts in (first, second))
    seen = one + two > 0
    one, two = one[seen], two[seen]
    if not one.sum() or not two.sum():
        return 0.0
    bias = (len(one) - 1) / (8 * math.log(2)) * (1 / one.sum() + 1 / two.sum())
    one, two = one / one.sum(), two / two.sum()
    middle = (one + two) / 2
    divergence = (_relative_entropy(one, middle) + _relative_entropy(two, middle)) / 2
    return math.sqrt(min(max(divergence - bias, 0.0), 1.0))


def _relative_entropy(part: _Floats, whole: _Floats) -> float:
    there = part > 0
    return float((part[there] * np.log2(part[there] / whole[there])).sum())


def _count(values: _Floats, edges: tuple[float, ...]) -> dict[str, int]:
    """Count finite values per bin; a bin is named by its lower edge."""
    places = np.digitize(values[np.isfinite(values)], edges)
    names = ["less", *(f"{edge:.4g}" for edge in edges)]
    counts = np.bincount(places, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _numbers(column: Any) -> _Floats:
    import pandas as pd

    return np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)
