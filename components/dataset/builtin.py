"""The built-in dataset: handwritten digits pasted on photographs, drawn from a seed.

Glyphs are the 1,797 digits that scikit-learn ships (8 x 8 pixels, from real hands), backgrounds its two
photographs. Neither a glyph nor a part of a photograph is shared between splits: glyphs are dealt out per
digit, and each split cuts its backgrounds from columns of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from components.dataset.config import BuiltinConfig
from yolo_core.data.writer import SourceBox, SourceImage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]

DIGITS = tuple("0123456789")
SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of the glyphs, and of a photograph's columns
_SIDES = (128, 256)  # pixels of an image's sides
_DIGITS_PER_IMAGE = (3, 8)
_GLYPH_SHARE = (0.14, 0.45)  # height of a digit over the image's shorter side
_MAX_TURN = 20.0  # degrees
_MIN_CONTRAST = 70.0  # grey levels between a digit and what is behind it
_MAX_OVERLAP = 0.1  # of the smaller of two boxes
_PLACEMENTS = 25  # tries to find room for a digit
_CANVAS = 96  # pixels that a glyph is drawn on before it gets its size
_JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class Ink:
    """What a split may draw with: glyphs (n, 8, 8) in 0..1, their digits (n,), and photographs (BGR)."""

    glyphs: NDArray[np.float32]
    digits: NDArray[np.int64]
    photographs: tuple[Pixels, ...]


def builtin_splits(config: BuiltinConfig, seed: int) -> dict[str, Iterator[SourceImage]]:
    """Return the images of each split, drawn as they are asked for. The same arguments draw the same."""
    counts = {"train": config.train_images, "val": config.val_images, "test": config.test_images}
    ink = _deal_out(seed)
    return {split: _draw_split(split, counts[split], ink[split], seed) for split in SHARES}


def _deal_out(seed: int) -> dict[str, Ink]:
    """Give each split its own glyphs, in equal shares of every digit, and columns of the photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    photographs = [cv2.cvtColor(photo, cv2.COLOR_RGB2BGR) for photo in load_sample_images().images]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.flatnonzero(data.target == digit)) for digit in range(10)]
    dealt, begin = {}, 0.0
    for split, share in SHARES.items():
        end = begin + share
        chosen = np.concatenate([order[_part(len(order), begin, end)] for order in orders])
        columns = tuple(photo[:, _part(photo.shape[1], begin, end)] for photo in photographs)
        dealt[split] = Ink(glyphs=images[chosen], digits=data.target[chosen], photographs=columns)
        begin = end
    return dealt


def _part(length: int, begin: float, end: float) -> slice:
    return slice(round(length * begin), round(length * end))


def _draw_split(split: str, count: int, ink: Ink, seed: int) -> Iterator[SourceImage]:
    key = list(SHARES).index(split)
    for number in range(count):
        rng = np.random.default_rng((seed, key, number))
        image, boxes = draw_image(ink, rng)
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        yield SourceImage(file_name=f"{number:05d}.jpg", content=encoded.tobytes(), boxes=boxes)


def draw_image(ink: Ink, rng: np.random.Generator) -> tuple[Pixels, list[SourceBox]]:
    """Draw one image: (H, W, 3) BGR with the boxes and outlines of its digits, in pixels."""
    width, height = (int(side) for side in rng.integers(_SIDES[0], _SIDES[1] + 1, 2))
    image = _background(ink, (width, height), rng)
    boxes: list[SourceBox] = []
    for _ in range(int(rng.integers(_DIGITS_PER_IMAGE[0], _DIGITS_PER_IMAGE[1] + 1))):
        index = int(rng.integers(len(ink.digits)))
        mask = _glyph(ink.glyphs[index], round(rng.uniform(*_GLYPH_SHARE) * min(width, height)), rng)
        corner = _find_room(mask.shape, (height, width), boxes, rng)
        if corner is not None:
            _paste(image, mask, corner, rng)
            boxes.append(_annotate(mask, corner, int(ink.digits[index])))
    return image, boxes


def _background(ink: Ink, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Cut a random part of a photograph, mirror it perhaps, change its light, and bring it to (w, h)."""
    photo = ink.photographs[int(rng.integers(len(ink.photographs)))]
    side = int(rng.uniform(0.5, 1.0) * min(photo.shape[:2]))
    top = int(rng.integers(photo.shape[0] - side + 1))
    left = int(rng.integers(photo.shape[1] - side + 1))
    part = photo[top : top + side, left : left + side]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    scaled = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    light = scaled.astype(np.float32) * rng.uniform(0.6, 1.2) + rng.uniform(-20, 20)
    return light.clip(0, 255).astype(np.uint8)


def _glyph(glyph: NDArray[np.float32], height: int, rng: np.random.Generator) -> Mask:
    """Enlarge an 8 x 8 glyph to smooth ink, turn it, and cut it tightly: (h, w) of opacity 0..1."""
    inner = cv2.resize(glyph, (_CANVAS // 2, _CANVAS // 2), interpolation=cv2.INTER_CUBIC)
    canvas = np.zeros((_CANVAS, _CANVAS), np.float32)
    edge = _CANVAS // 4
    canvas[edge : edge + len(inner), edge : edge + len(inner)] = inner
    turn = cv2.getRotationMatrix2D((_CANVAS / 2, _CANVAS / 2), rng.uniform(-_MAX_TURN, _MAX_TURN), 1.0)
    canvas = cv2.warpAffine(canvas, turn, (_CANVAS, _CANVAS), flags=cv2.INTER_LINEAR)
    # A soft threshold makes strokes out of the blurred enlargement.
    cut = _tight(((canvas - 0.3) / 0.25).clip(0, 1).astype(np.float32))
    width = max(4, round(cut.shape[1] * height / cut.shape[0]))
    return _tight(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA))


def _tight(mask: Mask) -> Mask:
    """Cut a mask to its visible part."""
    rows, columns = np.where(mask > 0.5)
    return mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _find_room(
    shape: tuple[int, ...], image: tuple[int, int], boxes: list[SourceBox], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return a (left, top) where a digit of that (h, w) covers no other, or None after some tries."""
    height, width = shape
    if height >= image[0] or width >= image[1]:
        return None
    for _ in range(_PLACEMENTS):
        left = int(rng.integers(image[1] - width))
        top = int(rng.integers(image[0] - height))
        if all(_overlap((left, top, width, height), box.box) <= _MAX_OVERLAP for box in boxes):
            return left, top
    return None


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection of two (x, y, w, h) boxes over the smaller one's area."""
    shared = 1.0
    for axis in (0, 1):
        low = max(first[axis], second[axis])
        high = min(first[axis] + first[axis + 2], second[axis] + second[axis + 2])
        shared *= max(high - low, 0.0)
    return shared / min(first[2] * first[3], second[2] * second[3])


def _paste(image: Pixels, mask: Mask, corner: tuple[int, int], rng: np.random.Generator) -> None:
    """Paint a digit in a colour that stands out from what is behind it."""
    left, top = corner
    area = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    behind = float(area.mean())
    colour = rng.uniform(0, 255, 3)
    while abs(float(colour.mean()) - behind) < _MIN_CONTRAST:
        colour = rng.uniform(0, 255, 3)
    opacity = mask[..., None]
    area[:] = (area * (1 - opacity) + colour * opacity).round().clip(0, 255).astype(np.uint8)


def _annotate(mask: Mask, corner: tuple[int, int], digit: int) -> SourceBox:
    """Return the box and outline of a pasted digit, whose mask is cut tightly."""
    left, top = corner
    inked = (mask > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(inked, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = [
        (outline.reshape(-1, 2) + (left, top)).astype(float).ravel().tolist()
        for outline in outlines
        if len(outline) >= 3
    ]
    height, width = mask.shape
    return SourceBox(
        class_index=digit,
        box=(float(left), float(top), float(width), float(height)),
        area=float(inked.sum()),
        segmentation=polygons or None,
    )
