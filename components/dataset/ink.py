"""A small grey glyph to ink: enlarged, turned, sharp-edged, outlined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Where the edge of a stroke is, of full ink. The first that leaves the digit in one piece: strokes stay
# thin, but a faint joint does not break.
_INK_LEVELS = (0.47, 0.40, 0.33, 0.26)
_EDGE = 1.5  # image pixels over which ink goes from none to full
_MARGIN = 2  # empty glyph pixels around the glyph, so that a turned stroke is not cut
_FINE = 4  # outlines are followed on a grid this much finer than pixels
_SPECK = 0.05  # share of a glyph's ink below which a loose part is dropped


@dataclass(frozen=True, kw_only=True)
class Ink:
    """A glyph at its final size and turn.

    Attributes:
        alpha: (h, w) coverage, 0 to 1, without empty borders.
        polygons: outlines, (k, 2) xy in pixels of ``alpha``; at least one.
        box: x0, y0, x1, y1 around the outlines, in pixels of ``alpha``.
    """

    alpha: NDArray[np.float32]
    polygons: tuple[NDArray[np.float64], ...]
    box: tuple[float, float, float, float]


def draw_ink(glyph: NDArray[np.float32], size: float, degrees: float) -> Ink:
    """Enlarge a square glyph (ink from 0 to 1) to ``size`` pixels, turn it, and sharpen its grey edges.

    Raises:
        ValueError: nothing of the glyph is dark enough to be ink.
    """
    padded = np.pad(glyph, _MARGIN)
    scale = size / glyph.shape[0]
    side = math.ceil(padded.shape[0] * scale * 1.2)
    # OpenCV counts from pixel centres: the middle of n pixels is at (n - 1) / 2.
    middle = (padded.shape[0] - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, scale)
    matrix[:, 2] += (side - 1) / 2 - middle
    grey = cv2.warpAffine(padded, matrix, (side, side), flags=cv2.INTER_CUBIC)
    # Ink rises from none to full within about one glyph pixel, which is `scale` image pixels.
    width = min(max(_EDGE / scale, 0.1), 0.8)
    for level in _INK_LEVELS:
        ink = _trim(np.clip((grey - level) / width + 0.5, 0, 1).astype(np.float32))
        if len(ink.polygons) == 1:
            break
    return ink


def _trim(alpha: NDArray[np.float32]) -> Ink:
    """Drop loose specks and empty borders, and outline what is left."""
    kept = _without_specks(alpha)
    if kept.max() < 0.5:
        raise ValueError("the glyph has no ink")
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    kept = kept[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    polygons = _outline(kept)
    points = np.concatenate(polygons)
    x0, y0, x1, y1 = (float(edge) for edge in np.concatenate([points.min(0), points.max(0)]))
    return Ink(alpha=kept, polygons=polygons, box=(x0, y0, x1, y1))


def _without_specks(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    count, parts = cv2.connectedComponents((alpha > 0).astype(np.uint8), connectivity=8)
    sums = np.bincount(parts.ravel(), weights=alpha.ravel(), minlength=count)
    specks = np.flatnonzero(sums < _SPECK * alpha.sum())
    return np.where(np.isin(parts, specks), np.float32(0), alpha)


def _outline(alpha: NDArray[np.float32]) -> tuple[NDArray[np.float64], ...]:
    """Return the outer outlines of where alpha is at least a half, (k, 2) xy each."""
    fine = cv2.resize(alpha, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_LINEAR)
    mask = np.pad((fine >= 0.5).astype(np.uint8), 1)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = [cv2.approxPolyDP(contour, 1.0, True).reshape(-1, 2) for contour in contours]
    # A contour runs through the centres of the outermost fine pixels: less 1 of padding, plus 0.5.
    return tuple((points - 0.5) / _FINE for points in found if len(points) >= 3)
