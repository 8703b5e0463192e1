"""Decoded and resized images, kept in memory or in one mapped file, within a budget.

Decoding a JPEG costs tens of times more than copying its pixels, and every mosaic needs four
images. The cache is keyed by content: the digest of each file from the manifest, the size and the
way of resizing. A changed image therefore never gives old pixels, and no pickle is involved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import Sample
from yolo_core.data.images import Pixels
from yolo_core.data.letterbox import fit_size, resize
from yolo_core.data.prefetch import prefetched
from yolo_core.errors import DataError

Kind = Literal["memory", "disk", "none"]
_VERSION = 1  # of the layout of cache files
_MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """What is cached and where.

    Attributes:
        image_size: longest side of the cached images in pixels.
        smooth: resize by area when shrinking (evaluation), not linearly (training).
        memory_bytes: the cache stays in memory if it fits into this.
        disk_bytes: else it becomes a file in ``folder`` if that folder's caches then fit into this.
        folder: where; None for no file.
        threads: that decode while building.
    """

    image_size: int
    smooth: bool = False
    memory_bytes: int = 0
    disk_bytes: int = 0
    folder: Path | None = None
    threads: int = 1


class ImageCache:
    """Gives images at the cached size: from the cache, or decoded each time where it is not there.

    Attributes:
        kind: where the pixels are: "memory", "disk", or "none" if they fit into neither budget.
        bytes: how much they take there.
    """

    def __init__(
        self, settings: CacheSettings, kind: Kind, data: NDArray[np.uint8], offsets: Mapping[str, int]
    ) -> None:
        """Wrap an array of all pixels; use `build_cache`."""
        self.kind: Kind = kind
        self.bytes = data.nbytes
        self.settings = settings
        self._data = data
        self._offsets = offsets

    def get(self, sample: Sample) -> Pixels:
        """Return (h, w, 3) BGR uint8 with the longest side at ``image_size``; do not write to it.

        Raises:
            DataError: the image is not cached and cannot be read.
        """
        offset = self._offsets.get(sample.sha256)
        if offset is None:
            return decode_resized(sample, self.settings.image_size, smooth=self.settings.smooth)
        width, height = fit_size(sample.width, sample.height, self.settings.image_size)
        return self._data[offset : offset + width * height * 3].reshape(height, width, 3)


class DecodedImages:
    """Images as they are stored, each decoded once and kept in memory while a budget lasts.

    For an evaluation at several sizes: the resize, which belongs to the measured time, is made each time.
    Threads may share one. Images without a digest, and those past the budget, are decoded every time.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Keep at most so many bytes of pixels."""
        self._budget = budget_bytes
        self._kept: dict[str, Pixels] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """How much is kept."""
        with self._lock:
            return sum(pixels.nbytes for pixels in self._kept.values())

    def get(self, sample: Sample) -> Pixels:
        """Return (height, width, 3) BGR uint8; do not write to it.

        Raises:
            DataError: as `read_stored`.
        """
        kept = self._kept.get(sample.sha256)
        if kept is not None:
            return kept
        pixels = read_stored(sample)
        with self._lock:
            if sample.sha256 and sample.sha256 not in self._kept and pixels.nbytes <= self._budget:
                self._kept[sample.sha256] = pixels
                self._budget -= pixels.nbytes
        return pixels


ImageSource = ImageCache | DecodedImages


def decode_resized(sample: Sample, size: int, *, smooth: bool) -> Pixels:
    """Read an image and make its longest side ``size``: (h, w, 3) BGR uint8.

    Raises:
        DataError: the file does not decode, or has another size than its annotations say.
    """
    return resize(read_stored(sample), *fit_size(sample.width, sample.height, size), smooth=smooth)


def read_stored(sample: Sample) -> Pixels:
    """Read an image as it is stored: (height, width, 3) BGR uint8.

    Raises:
        DataError: as `decode_resized`.
    """
    image = sample.read_image()
    height, width = image.shape[:2]
    if (width, height) != (sample.width, sample.height):
        expected = f"{sample.width}x{sample.height}"
        actual = f"{width}x{height}"
        raise DataError(f"{sample.path} is {actual}, annotated as {expected}; write the dataset again")
    return image


def build_cache(
    samples: Sequence[Sample],
    settings: CacheSettings,
    progress: Callable[[int, int], None] | None = None,
) -> ImageCache:
    """Decode all images once, into the first place with room: memory, the folder, or nowhere.

    A file that an earlier run made of the same images is used as it is.

    Args:
        samples: whose images are cached; those without a digest are not.
        settings: size and budgets.
        progress: called with (done, all) after each image.

    Raises:
        DataError: an image cannot be read.
    """
    plan = lay_out(samples, settings)
    if plan.bytes <= settings.memory_bytes:
        data = np.empty(plan.bytes, np.uint8)
        fill(data, plan, settings, progress)
        return ImageCache(settings, "memory", data, plan.offsets)
    if settings.folder is not None:
        path = settings.folder / _file_name(plan, settings)
        if not (path.is_file() and path.stat().st_size == plan.bytes):
            if plan.bytes > _room(settings.folder, settings.disk_bytes):
                return no_cache(settings)
            _write_file(path, plan, settings, progress)
        return ImageCache(settings, "disk", mapped(path), plan.offsets)
    return no_cache(settings)


def no_cache(settings: CacheSettings) -> ImageCache:
    """Return a cache that holds nothing: every image is decoded when it is asked for."""
    return ImageCache(settings, "none", np.empty(0, np.uint8), {})


def spare_memory() -> int:
    """Return the bytes that this process could still take: the machine's, and its container's limit."""
    spare = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no such file without cgroups; "max": no limit
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):  # counts page cache that can go, unlike AVPHYS
                spare = int(line.split()[1]) * 1024
        spare = min(spare, int(limits[0].read_text()) - int(limits[1].read_text()))
    return max(spare, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class CachePlan:
    """What goes where: each different image once, where its pixels begin (by digest), and their length."""

    samples: list[Sample]
    offsets: dict[str, int]
    bytes: int


def lay_out(samples: Sequence[Sample], settings: CacheSettings) -> CachePlan:
    """Return where the pixels of these images go; those without a digest have no place."""
    different = {sample.sha256: sample for sample in samples if sample.sha256}
    offsets, total = {}, 0
    for key, sample in different.items():
        width, height = fit_size(sample.width, sample.height, settings.image_size)
        offsets[key] = total
        total += width * height * 3
    return CachePlan(samples=list(different.values()), offsets=offsets, bytes=total)


def fill(
    data: NDArray[np.uint8],
    plan: CachePlan,
    settings: CacheSettings,
    progress: Callable[[int, int], None] | None = None,
    part: slice = slice(None),
) -> None:
    """Decode every image, or part of them, into its place in ``data``; an error stops the rest."""
    samples = plan.samples[part]

    def decode(sample: Sample) -> None:
        pixels = decode_resized(sample, settings.image_size, smooth=settings.smooth).ravel()
        offset = plan.offsets[sample.sha256]
        data[offset : offset + len(pixels)] = pixels

    for done, _ in enumerate(prefetched(decode, samples, threads=settings.threads), 1):
        if progress is not None:
            progress(done, len(samples))


def _file_name(plan: CachePlan, settings: CacheSettings) -> str:
    """Name a cache file by all that decides its bytes."""
    content = [_VERSION, settings.image_size, settings.smooth, list(plan.offsets.items())]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return f"images-{settings.image_size}-{digest[:32]}.bin"


def _room(folder: Path, budget: int) -> int:
    """Return how many bytes the folder's caches may still grow by; the disk keeps a tenth free."""
    folder.mkdir(parents=True, exist_ok=True)
    used = sum(path.stat().st_size for path in folder.glob("images-*.bin"))
    disk = shutil.disk_usage(folder)
    return min(budget - used, disk.free - disk.total // 10)


def mapped(path: Path) -> NDArray[np.uint8]:
    """Map a file; one that fits into spare memory is read now, in order, and not page by page when drawn.

    The pages stay the system's: all workers share them, and it takes them back when it needs memory.
    """
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(view) <= spare_memory():
        with contextlib.suppress(OSError):  # a kernel before 5.14: pages come when they are needed
            view.madvise(_MADV_POPULATE_READ)
    return np.frombuffer(view, np.uint8)


def _write_file(
    path: Path, plan: CachePlan, settings: CacheSettings, progress: Callable[[int, int], None] | None
) -> None:
    """Write a cache file whole or not at all, so that a file that is there can be trusted."""
    handle, name = tempfile.mkstemp(prefix=".images-", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        data = np.memmap(scratch, np.uint8, "w+", shape=(plan.bytes,))
        fill(data, plan, settings, progress)
        data.flush()
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
