"""Fit images into a shape without distortion, and map boxes back.

Coordinates are continuous: x runs from 0 at the left edge of the first pixel to the width at the
right edge of the last, so scaling a box is a multiplication, without half-pixel terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.images import Pixels

GREY = 114  # what fills the space around an image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Letterboxed:
    """An image in its new shape, and where it lies there.

    Attributes:
        image: (h, w, 3) uint8.
        ratio: (x, y) new pixels per original pixel; the two differ by rounding only.
        pad: (left, top) grey pixels before the image.
    """

    image: Pixels
    ratio: tuple[float, float]
    pad: tuple[int, int]


def fit_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the (width, height) that makes the longest side ``size``, keeping the aspect ratio."""
    scale = size / max(width, height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def resize(image: Pixels, width: int, height: int, *, smooth: bool) -> Pixels:
    """Resize to (height, width); the image itself if it has that size.

    ``smooth`` averages over areas when shrinking, as evaluation does; otherwise, and when
    growing, the resize is linear.
    """
    old_height, old_width = image.shape[:2]
    if (old_width, old_height) == (width, height):
        return image
    shrinks = width < old_width or height < old_height
    method = cv2.INTER_AREA if smooth and shrinks else cv2.INTER_LINEAR
    resized: Pixels = cv2.resize(image, (width, height), interpolation=method)
    return resized


def letterbox(image: Pixels, size: tuple[int, int], *, scale_up: bool) -> Letterboxed:
    """Scale an image to fit into ``size`` = (h, w) and centre it on grey.

    Args:
        image: (H, W, 3) uint8.
        size: height and width of the result.
        scale_up: whether a smaller image is enlarged; otherwise it keeps its pixels.
    """
    height, width = size
    old_height, old_width = image.shape[:2]
    scale = min(height / old_height, width / old_width)
    if not scale_up:
        scale = min(scale, 1.0)
    new_width = min(max(round(old_width * scale), 1), width)
    new_height = min(max(round(old_height * scale), 1), height)
    left, top = (width - new_width) // 2, (height - new_height) // 2
    canvas = np.full((height, width, 3), GREY, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resize(
        image, new_width, new_height, smooth=True
    )
    return Letterboxed(image=canvas, ratio=(new_width / old_width, new_height / old_height), pad=(left, top))


def to_original(
    boxes: NDArray[np.float32],
    ratio: tuple[float, float],
    pad: tuple[int, int],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Map boxes from a letterboxed image back to the original, and clip them to it.

    Args:
        boxes: (n, 4 or more) xyxy pixels of the letterboxed image; further columns are kept.
        ratio: (x, y) as in `Letterboxed`.
        pad: (left, top) as in `Letterboxed`.
        shape: (height, width) of the original image.

    Returns:
        A new array like ``boxes`` with xyxy in original pixels.
    """
    mapped = boxes.copy()
    for axis, limit in enumerate((shape[1], shape[0])):
        columns = mapped[:, axis:4:2]
        columns -= pad[axis]
        columns /= ratio[axis]
        np.clip(columns, 0, limit, out=columns)
    return mapped


def rectangular_shape(
    sizes: Sequence[tuple[int, int]], stride: int, *, padding: float = 0.5
) -> tuple[int, int]:
    """Return the smallest (h, w) for a batch of already resized images.

    Each side is the largest of the batch plus ``padding`` strides, rounded up to a multiple of
    the stride. At the default of half a stride a side that is a multiple already gets half a
    stride of grey on both ends.

    Args:
        sizes: (width, height) of each image.
        stride: the model's largest stride in pixels.
        padding: in strides.
    """
    width = max(size[0] for size in sizes)
    height = max(size[1] for size in sizes)
    return math.ceil(height / stride + padding) * stride, math.ceil(width / stride + padding) * stride
