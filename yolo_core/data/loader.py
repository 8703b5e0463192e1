"""Batches for training: augmented, shuffled, shared out over workers, made ahead by threads.

Every random choice of an example comes from a generator seeded by (seed, epoch, position in the
epoch), so a batch is the same whatever the number of threads or workers, and an epoch can be
taken up again at any batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.augment import Augmentation, augmented
from yolo_core.data.cache import CacheSettings, ImageCache, no_cache
from yolo_core.data.coco import Sample
from yolo_core.data.eval_loader import EvalBatch, EvalLoader, EvalLoaderSettings
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Labels, LabelTable, Part, transformed
from yolo_core.data.letterbox import fit_size
from yolo_core.data.prefetch import prefetched
from yolo_core.errors import DataError

__all__ = [
    "EvalBatch",
    "EvalLoader",
    "EvalLoaderSettings",
    "TrainBatch",
    "TrainLoader",
    "TrainLoaderSettings",
]

_ORDER, _EXAMPLE = 0, 1  # keep the shuffle's random numbers apart from the examples'


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainLoaderSettings:
    """How training batches are made.

    Attributes:
        image_size: side of the square images in pixels.
        batch_size: images per step over all ranks.
        augmentation: strengths.
        seed: of shuffling and augmentation, not negative.
        threads: that make batches ahead; each works on a batch of its own.
        rank, world_size: this worker's share of every batch.
        pin_memory: put images where a GPU copies them from without waiting; needs a GPU.
    """

    image_size: int
    batch_size: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    threads: int = 1
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible settings with a `ValueError` that names the field."""
        for name in ("image_size", "batch_size", "threads", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be within 0..{self.world_size - 1}, not {self.rank}")
        if self.batch_size < self.world_size:
            raise ValueError(
                f"batch_size {self.batch_size} leaves nothing for some of {self.world_size} ranks"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainBatch:
    """One rank's part of a training batch.

    Attributes:
        images: (B, 3, S, S) uint8 RGB; B is 0 on ranks that the last batch has no image for.
        targets: (M, 6) float32 rows of image in this batch, class, then x, y of the centre and
            w, h, as shares of the side.
        paths: of the image that each example started from.
        whole: images of the batch over all ranks.
    """

    images: Tensor
    targets: Tensor
    paths: tuple[str, ...]
    whole: int


class TrainLoader:
    """Iterates over one epoch's batches; call `set_epoch` before each epoch.

    Each image starts one example per epoch. Batches take ``batch_size`` of them; the last takes what is left.
    Ranks split each batch, and with it the work, but decide nothing about it: whatever their number, an epoch
    has the same batches, no image comes twice or is left out, and every rank has as many batches. Parts of a
    batch differ by one image at most, the first ranks have more; of a last batch with fewer images than
    ranks the last ranks get none.
    """

    def __init__(
        self, samples: Sequence[Sample], settings: TrainLoaderSettings, cache: ImageCache | None = None
    ) -> None:
        """Take images of a split; a cache must hold linear images of the training size.

        Raises:
            DataError: there are fewer images than ranks.
        """
        if len(samples) < settings.world_size:
            raise DataError(f"{len(samples)} training images cannot feed {settings.world_size} workers")
        self.settings = settings
        self._source = SplitImages(samples, cache or no_cache(CacheSettings(image_size=settings.image_size)))
        if self._source.cache.settings.image_size != settings.image_size:
            size = self._source.cache.settings.image_size
            raise ValueError(f"the cache holds images of {size} px, not {settings.image_size}")
        self._bounds = _batch_bounds(len(samples), settings.batch_size)
        self._augmentation = settings.augmentation
        self._weights: NDArray[np.float64] | None = None
        self._epoch = 0
        self._start = 0
        cv2.setNumThreads(0)  # the loader's own threads share the cores; OpenCV's would fight them

    def set_epoch(
        self,
        epoch: int,
        *,
        start_batch: int = 0,
        mosaic: float | None = None,
        image_weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: number that seeds the order and the augmentation.
            start_batch: first batch to yield; those before it are skipped without being made.
            mosaic: probability of mosaics in this epoch; None takes the settings'. Zero closes it.
            image_weights: (n,) how often each image should start an example or be a mosaic's partner,
                relatively; they are then drawn with replacement. None: each image starts one.
        """
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must be within 0..{len(self)}, not {start_batch}")
        usual = self.settings.augmentation
        self._augmentation = usual if mosaic is None else replace(usual, mosaic=mosaic)
        self._weights = image_weights
        self._epoch, self._start = epoch, start_batch

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, the same on every rank."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[TrainBatch]:
        """Yield the epoch's batches from ``start_batch`` on."""
        order, source = self._order(), self._source
        if self._weights is not None:
            # A split of its own, so that partners in mosaics come as often as the images that start examples.
            source = SplitImages([source.samples[index] for index in order], source.cache)
            order = np.arange(len(source))
        epoch = _Epoch(number=self._epoch, source=source, order=order, augmentation=self._augmentation)

        def make(bounds: tuple[int, int]) -> TrainBatch:
            return self._batch(epoch, bounds)

        return prefetched(make, self._bounds[self._start :], threads=self.settings.threads)

    def _order(self) -> NDArray[np.int64]:
        """Return the image that each position of the epoch starts from, the same on all ranks."""
        rng = np.random.default_rng(
            np.random.SeedSequence(self.settings.seed, spawn_key=(_ORDER, self._epoch))
        )
        count = len(self._source)
        if self._weights is None:
            return rng.permutation(count)
        return rng.choice(count, count, p=self._weights / self._weights.sum())

    def _share(self, bounds: tuple[int, int]) -> tuple[int, int]:
        """Return this rank's positions of a batch: parts that differ by one image at most, larger ones first.

        Rank 0 thus never goes without: its norms' statistics are the ones that are kept.
        """
        first, last = bounds
        each, more = divmod(last - first, self.settings.world_size)
        rank = self.settings.rank
        start = first + each * rank + min(rank, more)
        return start, start + each + (rank < more)

    def _batch(self, epoch: _Epoch, bounds: tuple[int, int]) -> TrainBatch:
        first, last = self._share(bounds)
        whole = bounds[1] - bounds[0]
        size = self.settings.image_size
        images = _empty_images((last - first, 3, size, size), pinned=self.settings.pin_memory)
        planes = images.numpy()
        parts: list[Part] = []
        slots: list[int] = []
        for slot, position in enumerate(range(first, last)):
            key = (_EXAMPLE, epoch.number, position)
            rng = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=key))
            index = int(epoch.order[position])
            parts += augmented(index, epoch.source, epoch.augmentation, rng, planes[slot])
            slots += [slot] * (len(parts) - len(slots))
        if not parts:
            return TrainBatch(images=images, targets=torch.empty(0, 6), paths=(), whole=whole)
        labels, owners = transformed(parts, size)
        return TrainBatch(
            images=images,
            targets=torch.from_numpy(_target_rows(np.array(slots, np.int64)[owners], labels, size)),
            paths=tuple(str(epoch.source.samples[index].path) for index in epoch.order[first:last]),
            whole=whole,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Epoch:
    """What one iteration goes by, whatever `set_epoch` says meanwhile."""

    number: int
    source: SplitImages
    order: NDArray[np.int64]
    augmentation: Augmentation


class SplitImages:
    """The split's images at training size, as `yolo_core.data.mosaic.ImageSource`."""

    def __init__(self, samples: Sequence[Sample], cache: ImageCache) -> None:
        self.samples = samples
        self.cache = cache
        size = cache.settings.image_size
        self._sizes = [fit_size(sample.width, sample.height, size) for sample in samples]
        self._labels = LabelTable(samples, self._sizes)

    def __len__(self) -> int:
        return len(self.samples)

    def size(self, index: int) -> tuple[int, int]:
        return self._sizes[index]

    def pixels(self, index: int) -> Pixels:
        return self.cache.get(self.samples[index])

    def labels(self, index: int) -> Labels:
        return self._labels[index]


def _batch_bounds(count: int, batch: int) -> list[tuple[int, int]]:
    """Cut positions 0..count into batches; the last takes what is left."""
    return list(pairwise([*range(0, count, batch), count]))


def _empty_images(shape: tuple[int, ...], *, pinned: bool) -> Tensor:
    """Return uint8 memory for a batch; numpy's comes in huge pages, so with far fewer page faults."""
    if pinned:
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
    return torch.from_numpy(np.empty(shape, np.uint8))


def _target_rows(slots: NDArray[np.int64], labels: Labels, size: int) -> NDArray[np.float32]:
    rows = np.empty((len(labels), 6), np.float32)
    rows[:, 0] = slots
    rows[:, 1] = labels.classes
    low, high = labels.boxes[:, :2], labels.boxes[:, 2:]
    rows[:, 2:4] = (low + high) / (2 * size)
    rows[:, 4:] = (high - low) / size
    return rows
