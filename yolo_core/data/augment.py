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

from yolo_core.data.colour import hsv_to_rgb
from yolo_core.data.geometry import MotionRange, draw_motion
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Part
from yolo_core.data.mosaic import Canvas, ImageSource, mosaic, single
from yolo_core.data.paste import pasted
from yolo_core.data.render import Scene, render
from yolo_core.data.scratch import Scratch

_MIXUP_BETA = 32.0  # both parameters: ratios stay near one half
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


def augmented(
    index: int, source: ImageSource, strength: Augmentation, rng: np.random.Generator, out: Pixels
) -> list[Part]:
    """Make one training example.

    Args:
        index: the image to start from; partners are drawn from the whole source.
        source: images whose longest side is that of ``out``.
        strength: what to do, and how much.
        rng: the only source of randomness.
        out: (3, size, size) uint8, contiguous; becomes the RGB picture.

    Returns:
        The labels of the images seen; `yolo_core.data.labels.transformed` makes them the picture's.
    """
    is_mosaic = rng.random() < strength.mosaic
    is_mixed = rng.random() < strength.mixup and is_mosaic
    draw = _Draw(
        source=source,
        strength=strength,
        size=out.shape[2],
        flip_x=bool(rng.random() < strength.fliplr),
        flip_y=bool(rng.random() < strength.flipud),
        rng=rng,
    )
    gains = draw_gains(strength, rng)
    scene = draw.mosaic(index) if is_mosaic else draw.single(index)
    image, parts = render(scene, _SCRATCH)
    if is_mixed:
        other, more = render(draw.mosaic(int(rng.integers(len(source)))), _SCRATCH, "second")
        image, parts = mixup(image, other, rng), [*parts, *more]
    hsv_to_rgb(image, gains, out)
    return parts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draw:
    """What is common to the scenes of one example; flips come last in the recipe, but change places with
    mixup and colour without a difference."""

    source: ImageSource
    strength: Augmentation
    size: int
    flip_x: bool
    flip_y: bool
    rng: np.random.Generator

    def single(self, index: int) -> Scene:
        """Lay one image on grey."""
        return self._scene(single(index, self.source, self.size))

    def mosaic(self, index: int) -> Scene:
        """Draw three partners and a centre; the image itself may lie in any of the four places."""
        four = [index, *self.rng.integers(0, len(self.source), 3).tolist()]
        order = [four[place] for place in self.rng.permutation(4)]
        return self._scene(mosaic(order, self.source, self.size, self.rng))

    def _scene(self, canvas: Canvas) -> Scene:
        """Draw what is pasted and how the canvas moves."""
        source: ImageSource = self.source
        if self.strength.copy_paste > 0:
            canvas, source = pasted(canvas, source, self.strength.copy_paste, self.rng)
        motion = draw_motion((canvas.width, canvas.height), self.size, self.strength.motion, self.rng)
        motion = replace(motion, flip_x=self.flip_x, flip_y=self.flip_y)
        return Scene(canvas=canvas, source=source, motion=motion)


def mixup(first: Pixels, second: Pixels, rng: np.random.Generator) -> Pixels:
    """Blend two pictures of one shape, with a ratio from Beta(32, 32); both keep their boxes."""
    ratio = float(rng.beta(_MIXUP_BETA, _MIXUP_BETA))
    blended: Pixels = cv2.addWeighted(first, ratio, second, 1 - ratio, 0)
    return blended


def draw_gains(strength: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the factors of hue, saturation and value: (3,) round 1."""
    return 1.0 + rng.uniform(-1, 1, 3) * (strength.hsv_h, strength.hsv_s, strength.hsv_v)
