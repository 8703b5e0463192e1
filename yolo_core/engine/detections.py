"""Detections as plain data, for JSON and for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def describe(rows: NDArray[np.floating[Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Turn the detections of one image into dictionaries.

    Args:
        rows: (n, 6): x1, y1, x2, y2 in pixels of the image, score in 0..1, class index.
        names: class names by index.

    Returns:
        Per row ``{"xyxy": [x1, y1, x2, y2], "score": ..., "class": index, "name": ...}``, in the same order;
        coordinates rounded to 0.01 pixel and scores to 0.0001.
    """
    return [
        {
            "xyxy": [round(float(value), 2) for value in row[:4]],
            "score": round(float(row[4]), 4),
            "class": int(row[5]),
            "name": names[int(row[5])],
        }
        for row in rows
    ]
