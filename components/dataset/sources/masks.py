"""COCO's run-length masks to outlines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MIN_POINTS = 3


def outlines(mask: Mapping[str, Any]) -> list[list[float]] | None:
    """Return the outer outlines of a mask as flat polygons [x1, y1, ...] in pixels, or None if it is broken.

    ``mask`` has ``size`` [height, width] and ``counts``: a list of run lengths, or COCO's string of them.
    """
    pixels = _decode(mask)
    if pixels is None:
        return None
    # Outlines run through pixel centres; two fine pixels per pixel bring them to a quarter of its edge.
    fine = np.kron(pixels, np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [
        ((contour.reshape(-1, 2) + 0.5) / 2).ravel().tolist()
        for contour in contours
        if len(contour) >= _MIN_POINTS
    ]


def _decode(mask: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """Return (height, width) of 0 and 1. Runs go down the columns, the first is of zeros."""
    size, counts = mask.get("size"), mask.get("counts")
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        return None
    runs = _read_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    height, width = size
    if sum(runs) != height * width:
        return None
    values = np.resize(np.array([0, 1], np.uint8), len(runs))
    return np.repeat(values, runs).reshape(width, height).T.copy()


def _read_runs(text: str) -> list[int] | None:
    """Read COCO's string of run lengths, or None if it ends early.

    Characters from "0" on carry six bits: five of the number, lowest first, and one (32) that says
    that more follow; the fifth of the last group is the sign. From the fourth number on, each is the
    difference to the one two before. (Format: cocodataset.org, "mask" API.)
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs if shift == 0 else None
