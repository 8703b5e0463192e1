"""One image cache for all ranks of a machine: each decodes a part of the images, once, and all read all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from yolo_core.data.cache import CacheSettings, ImageCache, build_cache, fill, lay_out, mapped, no_cache
from yolo_core.data.coco import Sample
from yolo_core.engine.ranks import Ranks
from yolo_core.errors import DataError


def build_shared_cache(samples: Sequence[Sample], settings: CacheSettings, ranks: Ranks) -> ImageCache:
    """Decode images into memory that all ranks of this machine share; all ranks must call it.

    With one rank this is `yolo_core.data.cache.build_cache`. Otherwise the first rank of each machine makes a
    temporary file without a name, which the others open through it; so nothing is left behind, however a rank
    ends. Its pages are the system's, which may write them to the disk when memory is short.

    Args:
        samples: the same on all ranks.
        settings: ``memory_bytes`` is what the machine's cache may take; where that is too little, or the disk
            for temporary files is too full, each image is decoded whenever it is asked for.
        ranks: this process among its fellows.

    Raises:
        DataError: an image cannot be read; on all ranks when one finds it.
    """
    if ranks.world_size == 1:
        return build_cache(samples, settings)
    crew = _same_machine(ranks)
    plan = lay_out(samples, settings)
    fits = 0 < plan.bytes <= settings.memory_bytes
    with _nameless_file(plan.bytes if fits and ranks.rank == crew[0] else 0) as made:
        path = ranks.gather(made)[crew[0]]
        fault = None
        if path is not None:
            data = np.memmap(path, np.uint8, "r+", shape=(plan.bytes,))
            try:
                fill(data, plan, settings, part=slice(crew.index(ranks.rank), None, len(crew)))
            except DataError as error:
                fault = str(error)
        faults = [found for found in ranks.gather(fault) if found is not None]
        if faults:
            raise DataError(faults[0])
        cache = no_cache(settings)
        if path is not None:
            cache = ImageCache(settings, "memory", mapped(path), plan.offsets)
        ranks.gather(None)  # all have opened it: the first may close it
    return cache


def _same_machine(ranks: Ranks) -> list[int]:
    """Return the ranks that see this one's open files: those of its machine and container."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        here = (boot.read_text(), str(processes.readlink()))
    except OSError:  # not Linux: every rank keeps a cache of its own
        here = (str(ranks.rank), "")
    return [rank for rank, place in enumerate(ranks.gather(here)) if place == here]


@contextmanager
def _nameless_file(size: int) -> Iterator[Path | None]:
    """Make a temporary file of that size for a while; None for size 0, or where there is no room for it."""
    with tempfile.TemporaryFile(prefix="images-") as file:
        path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            size = 0
        yield path if size else None
