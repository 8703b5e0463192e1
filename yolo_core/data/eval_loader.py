"""Batches for evaluation: not augmented, each image once, with what maps boxes back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from yolo_core.data.cache import ImageCache, ImageSource, read_stored
from yolo_core.data.coco import Sample
from yolo_core.data.images import Pixels
from yolo_core.data.letterbox import GREY, fit_size, rectangular_shape, resize
from yolo_core.data.prefetch import prefetched
from yolo_core.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalLoaderSettings:
    """How evaluation batches are made.

    Attributes:
        image_size: longest side of the images in pixels.
        batch_size: images per batch.
        stride: the model's largest; sides of batches are multiples of it.
        rectangular: sort by aspect ratio and give each batch the smallest shape that holds it;
            otherwise every batch is image_size x image_size, in the samples' order.
        threads: that make batches ahead.
        rank, world_size: this worker takes every world_size-th batch, beginning with its rank, so
            together the workers see each image once. Numbers of batches may differ by one.
    """

    image_size: int
    batch_size: int = 1
    stride: int = 32
    rectangular: bool = True
    threads: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible settings with a `ValueError` that names the field."""
        for name in ("image_size", "batch_size", "stride", "threads", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be within 0..{self.world_size - 1}, not {self.rank}")
        if not self.rectangular and self.image_size % self.stride:
            raise ValueError(f"image_size {self.image_size} must be a multiple of the stride {self.stride}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalBatch:
    """Images of one shape and where they came from.

    Attributes:
        images: (B, 3, h, w) uint8 RGB, in channels_last order, as decoders give pixels and convolutions like
            them.
        samples: their truth, in pixels of the stored images.
        ratios: per image (x, y), pixels here per stored pixel.
        pads: per image (left, top) grey pixels; see `yolo_core.data.letterbox.to_original`.
        decode_seconds: reading and decoding the files (or the cache).
        preprocess_seconds: from decoded pixels to ``images``: resizing, placing, channel order.
    """

    images: Tensor
    samples: tuple[Sample, ...]
    ratios: tuple[tuple[float, float], ...]
    pads: tuple[tuple[int, int], ...]
    decode_seconds: float
    preprocess_seconds: float


class EvalLoader:
    """Iterates over a split for evaluation; may be iterated again.

    Images are resized so that their longest side is the image size (by area when shrinking,
    linearly when growing) and centred on grey; that placement itself never changes their scale.
    """

    def __init__(
        self, samples: Sequence[Sample], settings: EvalLoaderSettings, cache: ImageSource | None = None
    ) -> None:
        """Take images of a split; an `ImageCache` must hold smooth ones of this size.

        Raises:
            DataError: there are no images.
        """
        if not samples:
            raise DataError("there are no images to evaluate; choose a split that has some")
        if isinstance(cache, ImageCache):
            if (cache.settings.image_size, cache.settings.smooth) != (settings.image_size, True):
                raise ValueError(f"the cache must hold smooth images of {settings.image_size} px")
            # Without a cache the resize belongs to the measured time, so it is done here.
            cache = None if cache.kind == "none" else cache
        self.settings = settings
        self._cache = cache
        ordered = sorted(samples, key=_aspect) if settings.rectangular else list(samples)
        step = settings.batch_size
        batches = [tuple(ordered[start : start + step]) for start in range(0, len(ordered), step)]
        self._batches = batches[settings.rank :: settings.world_size]
        cv2.setNumThreads(0)  # the loader's own threads share the cores; OpenCV's would fight them

    def __len__(self) -> int:
        """Return the number of this rank's batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[EvalBatch]:
        """Yield this rank's batches."""
        return prefetched(self._batch, self._batches, threads=self.settings.threads)

    def _batch(self, samples: tuple[Sample, ...]) -> EvalBatch:
        size = self.settings.image_size
        sizes = [fit_size(sample.width, sample.height, size) for sample in samples]
        shape = rectangular_shape(sizes, self.settings.stride) if self.settings.rectangular else (size, size)
        began = time.perf_counter()
        decoded = [self._decode(sample) for sample in samples]
        read = time.perf_counter()
        canvas = np.full((len(samples), *shape, 3), GREY, np.uint8)
        pads = []
        for slot, (image, (width, height)) in enumerate(zip(decoded, sizes, strict=True)):
            left, top = (shape[1] - width) // 2, (shape[0] - height) // 2
            place = canvas[slot, top : top + height, left : left + width]
            cv2.cvtColor(resize(image, width, height, smooth=True), cv2.COLOR_BGR2RGB, dst=place)
            pads.append((left, top))
        done = time.perf_counter()
        pairs = zip(sizes, samples, strict=True)
        return EvalBatch(
            images=torch.from_numpy(canvas).permute(0, 3, 1, 2),
            samples=samples,
            ratios=tuple((width / sample.width, height / sample.height) for (width, height), sample in pairs),
            pads=tuple(pads),
            decode_seconds=read - began,
            preprocess_seconds=done - read,
        )

    def _decode(self, sample: Sample) -> Pixels:
        """Return an image at its stored size, or at the cache's."""
        return read_stored(sample) if self._cache is None else self._cache.get(sample)


def _aspect(sample: Sample) -> float:
    return sample.height / sample.width
