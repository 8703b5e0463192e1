"""The straight way to make training batches: one image after another, step by step as the recipe says.

Mosaic, random scale and shift, colour, flips (specification, "Data and augmentation"), without any of
what `yolo_core.data.loader` does to be fast: images are decoded and resized each time, the whole 2 x 2
canvas is filled and warped, labels go with it, and the examples are stacked at the end. Both ways end
with uint8 batches, which the device scales to 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.augment import Augmentation
from yolo_core.data.coco import Sample

Image = NDArray[np.uint8]
Rows = NDArray[np.float32]  # (n, 5) class and xyxy pixels
Read = Callable[[int], Image]

_GREY = 114


def reader(samples: Sequence[Sample], size: int) -> Read:
    """Return the way to an image by index: decode it, then make its longest side ``size``."""

    def read(index: int) -> Image:
        image = cv2.imread(str(samples[index].path))
        ratio = size / max(image.shape[:2])
        if ratio == 1:
            return image
        shape = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
        return cv2.resize(image, shape, interpolation=cv2.INTER_LINEAR)

    return read


class PlainLoader:
    """Makes batches of mosaics with the strengths of a recipe (without perspective and shear, as v6.0's)."""

    def __init__(self, samples: Sequence[Sample], size: int, strength: Augmentation, read: Read) -> None:
        """Take the images; ``read`` gives their pixels at training size."""
        self._samples = samples
        self._size = size
        self._strength = strength
        self._read = read
        self._rng = np.random.default_rng(0)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, size, size) uint8 and targets (m, 6), from one mosaic per index."""
        images, targets = [], []
        for slot, index in enumerate(indices):
            image, rows = self._example(index)
            images.append(torch.from_numpy(image))
            target = torch.zeros((len(rows), 6))
            target[:, 0] = slot
            target[:, 1:] = torch.from_numpy(rows)
            targets.append(target)
        return torch.stack(images), torch.cat(targets)

    def _example(self, index: int) -> tuple[Image, Rows]:
        image, rows = self._warp(*self._mosaic(index))
        self._colour(image)
        size = self._size
        rows[:, 1:] = np.concatenate(
            [(rows[:, 1:3] + rows[:, 3:]) / 2 / size, (rows[:, 3:] - rows[:, 1:3]) / size], axis=1
        )
        if self._rng.random() < self._strength.flipud:
            image = np.flipud(image)
            rows[:, 2] = 1 - rows[:, 2]
        if self._rng.random() < self._strength.fliplr:
            image = np.fliplr(image)
            rows[:, 1] = 1 - rows[:, 1]
        return np.ascontiguousarray(image.transpose(2, 0, 1)[::-1]), rows

    def _mosaic(self, index: int) -> tuple[Image, Rows]:
        size = self._size
        x, y = (int(self._rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
        canvas = np.full((2 * size, 2 * size, 3), _GREY, np.uint8)
        parts = []
        for place, number in enumerate([index, *self._rng.integers(0, len(self._samples), 3).tolist()]):
            image, sample = self._read(number), self._samples[number]
            height, width = image.shape[:2]
            left, top = x - width if place % 2 == 0 else x, y - height if place < 2 else y
            x0, y0, x1, y1 = (
                max(left, 0),
                max(top, 0),
                min(left + width, 2 * size),
                min(top + height, 2 * size),
            )
            canvas[y0:y1, x0:x1] = image[y0 - top : y1 - top, x0 - left : x1 - left]
            rows = np.concatenate([sample.classes[:, None], sample.boxes], axis=1).astype(np.float32)
            rows[:, 1::2] = rows[:, 1::2] * (width / sample.width) + left
            rows[:, 2::2] = rows[:, 2::2] * (height / sample.height) + top
            parts.append(rows)
        rows = np.concatenate(parts)
        np.clip(rows[:, 1:], 0, 2 * size, out=rows[:, 1:])
        return canvas, rows

    def _warp(self, canvas: Image, rows: Rows) -> tuple[Image, Rows]:
        size, strength = self._size, self._strength
        centre, turn, move = np.eye(3), np.eye(3), np.eye(3)
        centre[:2, 2] = -size, -size
        scale = self._rng.uniform(1 - strength.scale, 1 + strength.scale)
        angle = self._rng.uniform(-strength.degrees, strength.degrees)
        turn[:2] = cv2.getRotationMatrix2D((0, 0), angle, scale)
        move[:2, 2] = self._rng.uniform(0.5 - strength.translate, 0.5 + strength.translate, 2) * size
        matrix = move @ turn @ centre
        image = cv2.warpAffine(canvas, matrix[:2], (size, size), borderValue=(_GREY, _GREY, _GREY))
        corners = np.ones((len(rows) * 4, 3))
        corners[:, :2] = rows[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 2)
        moved = (corners @ matrix.T)[:, :2].reshape(-1, 4, 2)
        boxes = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).clip(0, size)
        old = (rows[:, 3:] - rows[:, 1:3]) * scale
        new = boxes[:, 2:] - boxes[:, :2]
        aspect = np.maximum(new[:, 0] / (new[:, 1] + 1e-16), new[:, 1] / (new[:, 0] + 1e-16))
        share = new.prod(axis=1) / (old.prod(axis=1) + 1e-16)
        kept = (new > 2).all(axis=1) & (share > 0.1) & (aspect < 20)
        rows = rows[kept]
        rows[:, 1:] = boxes[kept]
        return image, rows

    def _colour(self, image: Image) -> None:
        strength = self._strength
        gains = self._rng.uniform(-1, 1, 3) * (strength.hsv_h, strength.hsv_s, strength.hsv_v) + 1
        steps = np.arange(256)
        tables = [
            (steps * gains[0] % 180).astype(np.uint8),
            *(np.clip(steps * gain, 0, 255).astype(np.uint8) for gain in gains[1:]),
        ]
        planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV))
        hsv = cv2.merge([cv2.LUT(plane, table) for plane, table in zip(planes, tables, strict=True)])
        cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=image)


def batches(count: int, size: int) -> list[list[int]]:
    """Return the indices of an epoch's batches in a shuffled order."""
    order = np.random.default_rng(0).permutation(count).tolist()
    return [order[start : start + size] for start in range(0, count, math.ceil(size))]
