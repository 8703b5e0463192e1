"""One random motion per picture: from a canvas to the square that the network sees.

Rotation, scale, shear, translation and perspective become one matrix, so the pixels are
interpolated once. Matrices act on continuous coordinates (see `yolo_core.data.labels`); OpenCV
counts from pixel centres, which `warp` allows for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from yolo_core.data.images import Pixels
from yolo_core.data.labels import Matrix
from yolo_core.data.letterbox import GREY

_BORDER = (GREY, GREY, GREY)
_MARGIN = 2  # pixels beyond the seen part that interpolation may read


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionRange:
    """How strong a random motion may be; all are half-widths of a uniform range.

    ``degrees`` and ``shear`` are angles in degrees, ``translate`` is a share of the picture's
    side, ``scale`` a share of 1, ``perspective`` the weight of one canvas pixel in the
    denominator (about 0 to 0.001).
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0

    @property
    def aligned(self) -> bool:
        """Whether motions keep lines along the axes."""
        return self.degrees == 0 and self.shear == 0 and self.perspective == 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Motion:
    """A drawn motion from a canvas to a size x size picture, followed by flips.

    Attributes:
        matrix: (3, 3) homogeneous, canvas to picture, without the flips.
        scale: new pixels per old pixel before shear and perspective.
        size: side of the picture.
        origin: for an aligned motion the canvas pixel (x, y) at the picture's top-left corner.
        flip_x, flip_y: whether left and right, or top and bottom, change places at the end.
    """

    matrix: Matrix
    scale: float
    size: int
    origin: tuple[int, int] | None
    flip_x: bool = False
    flip_y: bool = False

    def flips(self) -> Matrix:
        """Return the (3, 3) matrix of the flips, from picture to picture."""
        flips = np.eye(3)
        if self.flip_x:
            flips[0] = (-1, 0, self.size)
        if self.flip_y:
            flips[1] = (0, -1, self.size)
        return flips

    def place(self, part: Window) -> Window:
        """Return the picture's pixels that a part of the canvas takes under an aligned motion, before flips.

        Parts that touch on the canvas touch in the picture.
        """
        if self.origin is None:
            raise ValueError("only an aligned motion takes whole pixels to whole pixels")
        left, top = self.origin
        return Window(
            left=round((part.left - left) * self.scale),
            top=round((part.top - top) * self.scale),
            right=round((part.right - left) * self.scale),
            bottom=round((part.bottom - top) * self.scale),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A part of a canvas in whole pixels; it may reach beyond the canvas, where all is grey."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.bottom - self.top

    @property
    def is_empty(self) -> bool:
        """Whether there is no pixel in it."""
        return self.left >= self.right or self.top >= self.bottom

    def overlap(self, other: Window) -> Window:
        """Return what two windows share; it may be empty."""
        return Window(
            left=max(self.left, other.left),
            top=max(self.top, other.top),
            right=min(self.right, other.right),
            bottom=min(self.bottom, other.bottom),
        )


def draw_motion(
    canvas: tuple[int, int], size: int, strength: MotionRange, rng: np.random.Generator
) -> Motion:
    """Draw a motion that moves the canvas' centre to the picture's centre, give or take.

    The same number of random values is drawn whatever the strengths. An aligned motion is shifted
    by less than a canvas pixel so that whole pixels meet at the top-left corner: its translation
    is random anyway, and resizing each image into its place does the work of a warp in a third of the time.

    Args:
        canvas: (width, height) in pixels.
        size: side of the picture.
        strength: ranges of the draw.
        rng: source of randomness.
    """
    lean_x, lean_y, turn, grow, shear_x, shear_y, move_x, move_y = rng.uniform(-1, 1, 8).tolist()
    scale = 1 + strength.scale * grow
    target = [(0.5 + strength.translate * move) * size for move in (move_x, move_y)]
    if strength.aligned:
        origin = tuple(round(side / 2 - to / scale) for side, to in zip(canvas, target, strict=True))
        matrix = np.diag((scale, scale, 1.0))
        matrix[:2, 2] = -scale * origin[0], -scale * origin[1]
        return Motion(matrix=matrix, scale=scale, size=size, origin=(origin[0], origin[1]))
    centre = translation(-canvas[0] / 2, -canvas[1] / 2)
    lean = np.eye(3)
    lean[2, :2] = strength.perspective * lean_x, strength.perspective * lean_y
    angle = math.radians(strength.degrees * turn)
    rotate = np.diag((scale, scale, 1.0))
    rotate[:2, :2] = scale * np.array(
        ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle)))
    )
    skew = np.eye(3)
    skew[0, 1] = math.tan(math.radians(strength.shear * shear_x))
    skew[1, 0] = math.tan(math.radians(strength.shear * shear_y))
    matrix = translation(*target) @ skew @ rotate @ lean @ centre
    return Motion(matrix=matrix, scale=scale, size=size, origin=None)


def seen_window(motion: Motion, canvas: tuple[int, int]) -> Window:
    """Return the part of the canvas that the picture shows, so that no more need be drawn."""
    if motion.origin is not None:
        side = math.ceil(motion.size / motion.scale)
        left, top = motion.origin
        return Window(left=left, top=top, right=left + side, bottom=top + side)
    width, height = canvas
    size = motion.size
    square = np.array(((0, 0, 1), (size, 0, 1), (0, size, 1), (size, size, 1)))
    corners = square @ np.linalg.inv(motion.matrix).T
    if (corners[:, 2] <= 0).any():  # the horizon crosses the picture: no bound
        return Window(left=0, top=0, right=width, bottom=height)
    corners = corners[:, :2] / corners[:, 2:]
    low = np.floor(corners.min(axis=0)).astype(int) - _MARGIN
    high = np.ceil(corners.max(axis=0)).astype(int) + _MARGIN
    left, top = min(max(int(low[0]), 0), width - 1), min(max(int(low[1]), 0), height - 1)
    right, bottom = max(min(int(high[0]), width), left + 1), max(min(int(high[1]), height), top + 1)
    return Window(left=left, top=top, right=right, bottom=bottom)


def warp(image: Pixels, window: Window, motion: Motion, out: Pixels) -> None:
    """Move the pixels of a canvas window into the picture, whatever the motion.

    Args:
        image: (h, w, 3), the window's pixels.
        window: where they lie on the canvas.
        motion: what to do, flips included.
        out: (size, size, 3), becomes the picture.
    """
    # Pixel centres lie half a pixel inside; OpenCV's matrices go from centre to centre.
    start = translation(window.left + 0.5, window.top + 0.5)
    matrix = translation(-0.5, -0.5) @ motion.flips() @ motion.matrix @ start
    size = (motion.size, motion.size)
    if matrix[2, 0] or matrix[2, 1]:
        cv2.warpPerspective(image, matrix, size, dst=out, borderValue=_BORDER)
    else:
        cv2.warpAffine(image, matrix[:2], size, dst=out, borderValue=_BORDER)


def translation(x: float, y: float) -> Matrix:
    """Return the (3, 3) matrix that shifts by x and y."""
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix
