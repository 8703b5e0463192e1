"""Augmentation of training images, as the specification's "Data and augmentation" tells it.

A mosaic of four images (or one image on grey), copy-paste, one random motion, mixup with a second
mosaic, colour, flips. Every step takes its randomness from one generator, so an example depends
only on the generator's seed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.geometry import MotionRange, Window, draw_motion, seen_window, warp
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Floats, Labels, joined, transformed
from yolo_core.data.mosaic import Canvas, ImageSource, cut, mosaic, single
from yolo_core.data.scratch import Scratch

_MIXUP_BETA = 32.0  # both parameters: ratios stay near one half
_PASTE_MAX_COVER = 0.30  # of an existing box's area
_SCRATCH = Scratch()  # per thread
_SHARES = ("translate", "hsv_h", "hsv_s", "hsv_v", "flipud", "fliplr", "mosaic", "mixup", "copy_paste")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Strengths, by the names of the hyperparameter tables; the defaults are v6.0's scratch set.

    Attributes:
        hsv_h, hsv_s, hsv_v: largest relative change of hue, saturation and value.
        degrees: largest rotation either way.
        translate: largest shift as a share of the picture's side.
        scale: largest relative change of size, under 1.
        shear: largest shear angle in degrees, either way and axis.
        perspective: largest weight of a pixel in the perspective denominator, 0 to 0.001.
        flipud, fliplr: probability of a flip top to bottom, left to right.
        mosaic: probability of four images instead of one.
        mixup: probability that a mosaic is blended with a second one.
        copy_paste: share of the outlined objects that is pasted again, mirrored.
    """

    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range with a `ValueError` that names the key."""
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be within 0..1, not {getattr(self, name)}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale must be at least 0 and under 1, not {self.scale}")
        for name, limit in (("degrees", 180), ("shear", 89), ("perspective", 0.01)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be within 0..{limit}, not {getattr(self, name)}")

    @property
    def motion(self) -> MotionRange:
        """The strengths of the random motion."""
        return MotionRange(**{item.name: getattr(self, item.name) for item in fields(MotionRange)})


NO_AUGMENTATION = Augmentation(**{item.name: 0.0 for item in fields(Augmentation)})


@dataclass(frozen=True, kw_only=True, slots=True)
class _View:
    """What one example's pictures have in common: side in pixels and flips."""

    size: int
    flip_x: bool
    flip_y: bool


def augmented(
    index: int, source: ImageSource, strength: Augmentation, rng: np.random.Generator, out: Pixels
) -> Labels:
    """Make one training example.

    Args:
        index: the image to start from; partners are drawn from the whole source.
        source: images whose longest side is that of ``out``.
        strength: what to do, and how much.
        rng: the only source of randomness.
        out: (3, size, size) uint8, contiguous; becomes the RGB picture.

    Returns:
        The boxes in pixels of the picture.
    """
    is_mosaic = rng.random() < strength.mosaic
    size = out.shape[2]
    view = _View(
        size=size,
        flip_x=bool(rng.random() < strength.fliplr),
        flip_y=bool(rng.random() < strength.flipud),
    )
    canvas = _draw_mosaic(index, source, size, rng) if is_mosaic else single(index, source, size)
    image, labels = _render(canvas, source, strength, view, rng)
    if is_mosaic and rng.random() < strength.mixup:
        first = (image.copy(), labels)  # the second picture is drawn into the same memory
        other = _draw_mosaic(int(rng.integers(len(source))), source, size, rng)
        image, labels = mixup(first, _render(other, source, strength, view, rng), rng)
    hsv_to_rgb(image, draw_gains(strength, rng), out)
    return labels


def mixup(
    first: tuple[Pixels, Labels], second: tuple[Pixels, Labels], rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """Blend two pictures of one shape, with a ratio from Beta(32, 32); both keep their boxes."""
    ratio = float(rng.beta(_MIXUP_BETA, _MIXUP_BETA))
    blended: Pixels = cv2.addWeighted(first[0], ratio, second[0], 1 - ratio, 0)
    return blended, joined([first[1], second[1]])


def copy_paste(
    image: Pixels, labels: Labels, share: float, rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """Paste a share of the outlined objects again, mirrored left to right.

    An object is pasted where it covers every box that is there by less than 0.3 of that box.

    Args:
        image: (H, W, 3), changed in place.
        labels: its boxes; those with polygons can be copied.
        share: of the polygons, 0 to 1.
        rng: draws which.
    """
    outlined = np.flatnonzero(labels.counts)
    count = round(share * len(outlined))
    if count == 0:
        return image, labels
    chosen = rng.permutation(outlined)[:count]
    width = image.shape[1]
    mirrored = labels.boxes[chosen][:, [2, 1, 0, 3]] * np.array((-1, 1, -1, 1), np.float32)
    mirrored[:, ::2] += width
    accepted = _place(mirrored, labels.boxes)
    if not accepted.any():
        return image, labels
    mask = np.zeros(image.shape[:2], np.uint8)
    parts = [labels]
    for index, box in zip(chosen[accepted], mirrored[accepted], strict=True):
        outline = labels.polygon(int(index)) * np.array((-1, 1), np.float32) + np.array(
            (width, 0), np.float32
        )
        cv2.fillPoly(mask, [np.round(outline - 0.5).astype(np.int32)], 255)
        parts.append(
            Labels(
                classes=labels.classes[index : index + 1],
                boxes=box[None],
                counts=np.array([len(outline)]),
                points=outline,
            )
        )
    cv2.copyTo(cv2.flip(image, 1), mask, image)
    return image, joined(parts)


def draw_gains(strength: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the factors of hue, saturation and value: (3,) round 1."""
    return 1.0 + rng.uniform(-1, 1, 3) * (strength.hsv_h, strength.hsv_s, strength.hsv_v)


def hsv_to_rgb(image: Pixels, gains: NDArray[np.float64], out: Pixels) -> None:
    """Multiply hue, saturation and value of a picture, in uint8.

    Args:
        image: (h, w, 3) BGR.
        gains: (3,) factors.
        out: (3, h, w) uint8; becomes the picture in RGB planes.
    """
    if (gains == 1).all():
        cv2.split(image, list(out[::-1]))
        return
    steps = np.arange(256) * gains[:, None]
    tables = np.clip(steps, 0, 255)
    tables[0] = steps[0] % 180  # OpenCV's hue is a half turn of degrees and goes round
    hsv, planes = _SCRATCH.picture("hsv", *image.shape[:2]), list(out)
    cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=hsv)
    cv2.split(hsv, planes)
    for plane, table in zip(planes, tables.astype(np.uint8), strict=True):
        cv2.LUT(plane, table, dst=plane)
    cv2.merge(planes, hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    cv2.split(hsv, planes)


def _draw_mosaic(index: int, source: ImageSource, size: int, rng: np.random.Generator) -> Canvas:
    """Draw three partners and a centre; the image itself may lie in any of the four places."""
    four = [index, *rng.integers(0, len(source), 3).tolist()]
    return mosaic([four[place] for place in rng.permutation(4)], source, size, rng)


def _render(
    canvas: Canvas, source: ImageSource, strength: Augmentation, view: _View, rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """Draw a canvas and move it: a BGR picture of the view's size and flips, and its boxes."""
    extent = (canvas.width, canvas.height)
    motion = draw_motion(extent, view.size, strength.motion, rng)
    # Flips come last in the recipe, but change places with mixup and colour without a difference.
    motion = replace(motion, flip_x=view.flip_x, flip_y=view.flip_y)
    window = seen_window(motion, extent)
    if strength.copy_paste > 0:
        # What is pasted may come from anywhere, so the whole canvas is needed first.
        whole = Window(left=0, top=0, right=canvas.width, bottom=canvas.height)
        drawn, labels = copy_paste(
            canvas.pixels(source, whole, _SCRATCH), canvas.labels(source, whole), strength.copy_paste, rng
        )
        pixels = cut(drawn, window, _SCRATCH)
    else:
        pixels, labels = canvas.pixels(source, window, _SCRATCH), canvas.labels(source, window)
    moved = transformed(labels, motion.label_matrix(), motion.scale, view.size)
    return warp(pixels, window, motion, _SCRATCH), moved


def _place(boxes: Floats, existing: Floats) -> NDArray[np.bool_]:
    """Tell which of the boxes (k, 4) may be pasted, one after another, on existing ones (n, 4)."""
    accepted: NDArray[np.bool_] = _cover(boxes, existing).max(axis=1) < _PASTE_MAX_COVER
    among = _cover(boxes, boxes)
    for later in range(1, len(boxes)):
        accepted[later] &= not (among[later, :later][accepted[:later]] >= _PASTE_MAX_COVER).any()
    return accepted


def _cover(boxes: Floats, existing: Floats) -> Floats:
    """Return (k, n) intersection over the area of the existing box."""
    low = np.maximum(boxes[:, None, :2], existing[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], existing[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    area = (existing[:, 2:] - existing[:, :2]).prod(axis=1)
    cover: Floats = overlap / np.maximum(area, 1e-9)
    return cover
