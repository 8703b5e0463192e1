"""Training batches with mosaic, made the straight way and as `TrainLoader` makes them, side by side.

Run ``python benchmarks/data_loading.py [--size 640]`` from the repository's root. Both ways follow the
recipe ``v6.0-scratch`` (mosaic, scale, shift, colour, left-right flip) on COCO128, in batches of 16, and
end with uint8 batches. Process CPU time counts, so a busy machine disturbs little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from coco128 import stop_without_assets, write_coco128
from plain_loading import PlainLoader, Read, batches, reader
from timing import ROUNDS, compare, report, set_threads

from yolo_core.data.augment import Augmentation
from yolo_core.data.cache import CacheSettings, ImageCache, build_cache, no_cache
from yolo_core.data.coco import Sample
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings

_BATCH = 16
_PLAIN = "plain, decoding each time"
_BUDGET = 2**32  # bytes


def plain(samples: list[Sample], size: int, read: Read) -> Callable[[], None]:
    """Return what makes an epoch's batches the straight way."""
    loader = PlainLoader(samples, size, Augmentation(), read)

    def epoch() -> None:
        for indices in batches(len(samples), _BATCH):
            loader.batch(indices)

    return epoch


def ours(samples: list[Sample], size: int, cache: ImageCache) -> Callable[[], None]:
    """Return what makes the batches of an epoch, another one at each call."""
    settings = TrainLoaderSettings(image_size=size, batch_size=_BATCH, augmentation=Augmentation())
    loader, numbers = TrainLoader(samples, settings, cache), count()

    def epoch() -> None:
        loader.set_epoch(next(numbers))
        for _ in loader:
            pass

    return epoch


def measure(samples: list[Sample], size: int, rounds: int, folder: Path) -> None:
    """Build the caches, say what they cost, and print one line per way."""
    settings = CacheSettings(image_size=size, memory_bytes=_BUDGET)
    began = time.process_time()
    memory = build_cache(samples, settings)
    seconds = time.process_time() - began
    disk = build_cache(samples, replace(settings, memory_bytes=0, disk_bytes=_BUDGET, folder=folder))
    files = sum(sample.path.stat().st_size for sample in samples)
    print(
        f"cache of {len(samples)} images: {memory.bytes / 1e6:.0f} MB in memory or on disk "
        f"({memory.bytes / len(samples) / 1e6:.2f} MB per image; the files take {files / 1e6:.0f} MB), "
        f"built in {seconds:.1f} CPU-seconds"
    )
    read = reader(samples, size)
    kept = [np.ascontiguousarray(read(index)) for index in range(len(samples))]
    ways = {
        _PLAIN: plain(samples, size, read),
        "plain, decoded images in memory": plain(samples, size, kept.__getitem__),
        "ours, without a cache": ours(samples, size, no_cache(settings)),
        "ours, cache on disk": ours(samples, size, disk),
        "ours, cache in memory": ours(samples, size, memory),
    }
    result = compare(ways, rounds=rounds)
    report(f"{size} px, {rounds} rounds, per image", result, _PLAIN, per=len(samples))
    for name in ways:
        print(f"  {name:44} {len(samples) / result.seconds(name, cpu=True):9.0f} images per CPU-second")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training batches per CPU-second, plain and ours.")
    parser.add_argument("--size", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    stop_without_assets()
    set_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = write_coco128(folder / "dataset").samples("train")
        measure(samples, arguments.size, arguments.rounds, folder / "cache")


if __name__ == "__main__":
    main()
