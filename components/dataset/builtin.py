"""The built-in dataset: handwritten digits pasted on photographs, drawn from a seed.

Scikit-learn ships both, so nothing is downloaded: 1,797 digits of 8 x 8 pixels from real hands, and
two photographs of 640 x 427. A glyph, and a region of a photograph, serves one split only, so that
nothing of val or test can be learnt by heart. Every image depends on (seed, split, number) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from components.dataset.config import BuiltinConfig
from components.dataset.ink import Ink, draw_ink
from yolo_core.data.coco import SPLITS, SourceBox, SourceImage

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels

DIGITS = tuple("0123456789")
IMAGE_SIDES = (128, 256)  # pixels
DIGIT_SIZES = (18.0, 80.0)  # pixels of the 8 glyph rows, before turning; drawn evenly on a log scale
MAX_SHARE = 0.5  # of the image's shorter side
MAX_TURN = 20.0  # degrees, either way
DIGITS_PER_IMAGE = (2, 8)
MAX_OVERLAP = 0.08  # of the smaller of two boxes
MIN_CONTRAST = 95.0  # Euclidean distance of ink and background in BGR
JPEG_QUALITY = 92
_GLYPH_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
# Which columns of each photograph, from 0 to 1. The second shows a flower: half for train, half for test.
_COLUMNS = {
    "train": ((0.0, 0.5), (0.0, 0.5)),
    "val": ((0.5, 0.75), (0.75, 1.0)),
    "test": ((0.75, 1.0), (0.5, 0.75)),
}
_PLACEMENTS = 20  # tries to find room for a digit


@dataclass(frozen=True, kw_only=True)
class Material:
    """What one split is drawn from.

    Attributes:
        glyphs: (n, 8, 8) ink, 0 to 1.
        indices: (n,) which of the 1,797 digits they are.
        labels: (n,) digit of each glyph.
        photos: regions of photographs, (h, w, 3) BGR.
    """

    glyphs: NDArray[np.float32]
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    photos: tuple[Pixels, ...]


def builtin_splits(config: BuiltinConfig, seed: int) -> dict[str, Iterator[SourceImage]]:
    """Return the images of each split, drawn one at a time as they are asked for."""
    counts = {"train": config.train_images, "val": config.val_images, "test": config.test_images}
    material = deal_material(seed)
    return {split: _draw_split(split, counts[split], seed, material[split]) for split in SPLITS}


def deal_material(seed: int) -> dict[str, Material]:
    """Deal the glyphs out to the splits, each digit in the same shares, and cut up the photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    digits: Any = load_digits()
    photos: list[Pixels] = [np.ascontiguousarray(photo[..., ::-1]) for photo in load_sample_images().images]
    glyphs = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    dealt = _deal(labels, np.random.default_rng([seed, len(SPLITS)]))
    return {
        split: Material(
            glyphs=glyphs[dealt[split]],
            indices=dealt[split],
            labels=labels[dealt[split]],
            photos=tuple(_cut(photo, *ends) for photo, ends in zip(photos, _COLUMNS[split], strict=True)),
        )
        for split in SPLITS
    }


def draw_image(material: Material, rng: np.random.Generator) -> tuple[Pixels, list[SourceBox]]:
    """Draw one image, (h, w, 3) BGR, and its truth. A digit that finds no room is left out."""
    image = _background(material, rng)
    placed: list[Box] = []
    boxes: list[SourceBox] = []
    wanted = rng.integers(DIGITS_PER_IMAGE[0], DIGITS_PER_IMAGE[1] + 1)
    largest = min(DIGIT_SIZES[1], MAX_SHARE * min(image.shape[:2]))
    for _ in range(wanted):
        index = int(rng.integers(len(material.labels)))
        size = float(np.exp(rng.uniform(np.log(DIGIT_SIZES[0]), np.log(largest))))
        ink = draw_ink(material.glyphs[index], size, rng.uniform(-MAX_TURN, MAX_TURN))
        corner = _find_place(ink, image.shape, placed, rng)
        if corner is None:
            continue
        _paste(image, ink, corner, rng)
        boxes.append(_annotate(ink, corner, int(material.labels[index])))
        placed.append(_shifted(ink.box, corner))
    return image, boxes


def _draw_split(split: str, count: int, seed: int, material: Material) -> Iterator[SourceImage]:
    for number in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), number])
        image, boxes = draw_image(material, rng)
        _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        yield SourceImage(file_name=f"{number + 1:05d}.jpg", content=content.tobytes(), boxes=boxes)


def _deal(labels: NDArray[np.int64], rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Return per split the indices of its glyphs; no index is in two."""
    dealt: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for digit in range(len(DIGITS)):
        indices = rng.permutation(np.flatnonzero(labels == digit))
        ends = np.cumsum([round(_GLYPH_SHARES[split] * len(indices)) for split in SPLITS])[:-1]
        for split, part in zip(SPLITS, np.split(indices, ends), strict=True):
            dealt[split].append(part)
    return {split: np.sort(np.concatenate(parts)) for split, parts in dealt.items()}


def _cut(photo: Pixels, start: float, end: float) -> Pixels:
    """Cut the columns from ``start`` to ``end``, shares of the width, out of a photograph."""
    width = photo.shape[1]
    return photo[:, round(start * width) : round(end * width)]


def _background(material: Material, rng: np.random.Generator) -> Pixels:
    """Cut a piece from a photograph and vary its zoom, sides, light and direction."""
    photo = material.photos[rng.integers(len(material.photos))]
    height, width = (int(side) for side in rng.integers(IMAGE_SIDES[0], IMAGE_SIDES[1] + 1, 2))
    least = max(1.0, width / photo.shape[1], height / photo.shape[0])  # a smaller zoom would not fill it
    zoom = least * rng.uniform(1.0, 1.6)
    cut_width, cut_height = int(width / zoom), int(height / zoom)
    left = int(rng.integers(photo.shape[1] - cut_width + 1))
    top = int(rng.integers(photo.shape[0] - cut_height + 1))
    piece = photo[top : top + cut_height, left : left + cut_width]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    piece = cv2.resize(np.ascontiguousarray(piece), (width, height), interpolation=cv2.INTER_LINEAR)
    light = piece.astype(np.float32) * rng.uniform(0.6, 1.25) + rng.uniform(-20, 20)
    lit: Pixels = np.clip(light, 0, 255).astype(np.uint8)
    return lit


def _find_place(
    ink: Ink, shape: tuple[int, ...], placed: list[Box], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return a top-left corner (x, y) where the ink covers little of what is there, or None."""
    height, width = shape[0] - ink.alpha.shape[0], shape[1] - ink.alpha.shape[1]
    if height < 0 or width < 0:
        return None
    for _ in range(_PLACEMENTS):
        corner = int(rng.integers(width + 1)), int(rng.integers(height + 1))
        box = _shifted(ink.box, corner)
        if all(_overlap(box, other) <= MAX_OVERLAP for other in placed):
            return corner
    return None


def _overlap(one: Box, two: Box) -> float:
    """Return the intersection's share of the smaller of two boxes."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))


def _shifted(box: Box, corner: tuple[int, int]) -> Box:
    x, y = corner
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _paste(image: Pixels, ink: Ink, corner: tuple[int, int], rng: np.random.Generator) -> None:
    """Blend ink of a colour that stands out into the image, in place."""
    x, y = corner
    height, width = ink.alpha.shape
    under = image[y : y + height, x : x + width].astype(np.float32)
    colour = _contrasting(under[ink.alpha >= 0.5].mean(0), rng)
    cover = ink.alpha[..., None] * np.float32(rng.uniform(0.85, 1.0))
    image[y : y + height, x : x + width] = np.rint(under * (1 - cover) + colour * cover).astype(np.uint8)


def _contrasting(under: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw BGR colours until one is far enough from the background; black or white always is."""
    while True:
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if float(np.linalg.norm(colour - under)) >= MIN_CONTRAST:
            return colour


def _annotate(ink: Ink, corner: tuple[int, int], label: int) -> SourceBox:
    """Return the truth of a pasted digit in pixels of the image, rounded to hundredths."""
    polygons = [np.round(points + corner, 2) for points in ink.polygons]
    points = np.concatenate(polygons)
    low, high = points.min(0), points.max(0)
    x, y, width, height = (round(float(value), 2) for value in (*low, *(high - low)))
    area = sum(cv2.contourArea(outline.astype(np.float32)) for outline in polygons)
    return SourceBox(
        class_index=label,
        box=(x, y, width, height),
        area=round(float(area), 2),
        segmentation=[outline.ravel().tolist() for outline in polygons],
    )
