"""Training images per core-second, from the cache and decoded each time, side by side.

Run ``python benchmarks/data_loading.py [DATASET] [--sizes 160 640]`` from the repository's root. Process
CPU time is counted, so a busy machine disturbs little; rounds alternate between the two ways.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from yolo_core.data.augment import Augmentation
from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import Sample, open_dataset
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings


def rate(loader: TrainLoader, images: int) -> float:
    """Return augmented images per CPU-second over the first batches of an epoch."""
    began, done = time.process_time(), 0
    for batch in loader:
        done += len(batch.images)
        if done >= images:
            break
    return done / (time.process_time() - began)


def compare(samples: list[Sample], size: int, rounds: int) -> tuple[float, float]:
    """Return the best rates (cached, decoded) of the default recipe: mosaic, scale, colour, flip."""
    settings = TrainLoaderSettings(image_size=size, batch_size=16, augmentation=Augmentation())
    cache = build_cache(samples, CacheSettings(image_size=size, memory_bytes=2**32))
    loaders = (TrainLoader(samples, settings, cache), TrainLoader(samples, settings))
    best = [0.0, 0.0]
    for number in range(rounds):
        for which, loader in enumerate(loaders):
            loader.set_epoch(number)
            best[which] = max(best[which], rate(loader, images=128))
    return best[0], best[1]


def main() -> None:
    """Measure and print one line per size."""
    parser = argparse.ArgumentParser(description="Training images per core-second, cached and decoded.")
    parser.add_argument(
        "dataset", type=Path, nargs="?", default=Path("data/dataset"), help="a canonical dataset folder"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 640], metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    samples = open_dataset(arguments.dataset).samples("train")
    for size in arguments.sizes:
        cached, decoded = compare(samples, size, arguments.rounds)
        print(
            f"{size} px: cached {cached:.0f}, decoded {decoded:.0f} images per core-second, "
            f"ratio {cached / decoded:.1f}"
        )


if __name__ == "__main__":
    main()
