"""Does the cost of training data grow linearly: images/s and memory with 1, 10 and 100 times the images.

Run ``python benchmarks/scaling.py [--images 1000] [--factors 1 10 100]`` from the root. Synthetic
pictures of 160 x 120 pixels are trained on at 160 pixels with mosaic, from a cache file mapped into memory.
Each count runs in a process of its own; the counts take turns, several rounds, and every round makes the
same number of batches, so that a slower machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import torch
from timing import progress

from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import SourceBox, SourceImage, class_table, open_dataset, write_dataset
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings

_SIZE = 160
_BATCH = 16
_BUDGET = 2**36  # bytes of cache file
_BATCHES = 100  # per round, of each count
ROUNDS = 9


def pictures(count: int) -> Iterator[SourceImage]:
    """Yield noisy pictures with eight boxes each, all different."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = cv2.resize(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8), (_SIZE, 120))
        corners, sides = rng.uniform(0, 80, (8, 2)), rng.uniform(5, 40, (8, 2))
        boxes = [
            SourceBox(class_index=index % 3, box=(*corner, *side))
            for index, (corner, side) in enumerate(zip(corners.tolist(), sides.tolist(), strict=True))
        ]
        content = cv2.imencode(".jpg", image)[1].tobytes()
        yield SourceImage(file_name=f"{number:06}.jpg", content=content, boxes=boxes)


def work(folder: Path) -> None:
    """Load a dataset, then make batches whenever a line comes in, and answer with what it cost."""
    torch.set_num_threads(1)
    began = time.process_time()
    samples = open_dataset(folder / "dataset").samples("train")
    opened = time.process_time() - began
    began = time.process_time()
    cache = build_cache(samples, CacheSettings(image_size=_SIZE, disk_bytes=_BUDGET, folder=folder / "cache"))
    built = time.process_time() - began
    loader = TrainLoader(samples, TrainLoaderSettings(image_size=_SIZE, batch_size=_BATCH), cache)
    print(json.dumps({"opened": opened, "built": built, "cache": cache.bytes, **memory()}), flush=True)
    batches: Iterator[object] = iter(())
    epoch = 0
    for _ in sys.stdin:
        cpu = time.process_time()
        for _ in range(_BATCHES):
            batch = next(batches, None)
            while batch is None:  # the next epoch
                loader.set_epoch(epoch)
                epoch, batches = epoch + 1, iter(loader)
                batch = next(batches, None)
        print(json.dumps({"cpu": time.process_time() - cpu, **memory()}), flush=True)


def memory() -> dict[str, float]:
    """Return the process's memory in MB: its own now, and the peak with what is mapped from files."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    own = int(status["RssAnon"].split()[0]) / 1024
    return {"own": own, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class Worker:
    """A process that loads one dataset."""

    def __init__(self, folder: Path) -> None:
        """Start it, and wait until its cache is there."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start: dict[str, float] = json.loads(self._pipe(self._process.stdout).readline())

    def round(self) -> dict[str, float]:
        """Let it make a round's batches."""
        pipe = self._pipe(self._process.stdin)
        pipe.write("\n")
        pipe.flush()
        answer: dict[str, float] = json.loads(self._pipe(self._process.stdout).readline())
        return answer

    def stop(self) -> None:
        """End it."""
        self._pipe(self._process.stdin).close()
        self._process.wait()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise ValueError("the process has no pipe")
        return pipe


def measure(base: int, factors: list[int], rounds: int, root: Path) -> None:
    """Write the datasets, let the workers take turns, and print one line per count."""
    counts = [base * factor for factor in factors]
    for count in counts:
        progress(f"writing {count} images")
        splits = {"train": pictures(count)}
        write_dataset(root / str(count) / "dataset", splits, class_table("abc"), name="made", source="made")
    progress("")
    workers = {count: Worker(root / str(count)) for count in counts}
    results: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for number in range(-1, rounds):
        progress(f"round {number + 1} of {rounds}")
        for count, worker in workers.items():
            result = worker.round()
            if number >= 0:
                results[count].append(result)
    progress("")
    for count, worker in workers.items():
        worker.stop()
        rates = [_BATCH * _BATCHES / one["cpu"] for one in results[count]]
        ratio = statistics.median(
            first["cpu"] / one["cpu"] for first, one in zip(results[counts[0]], results[count], strict=True)
        )
        start, last = worker.start, results[count][-1]
        print(
            f"{count:7,} images: {statistics.median(rates):6.0f} images per CPU-second, x{ratio:.2f}; "
            f"opened in {1e3 * start['opened'] / count:.2f} and cached in {1e3 * start['built'] / count:.2f} "
            f"CPU-ms per image; cache file {start['cache'] / 1e6:.0f} MB, memory {last['own']:.0f} MB "
            f"of its own, peak {last['peak']:.0f} MB with mapped files"
        )


def main() -> None:
    """Measure and print; ``--work`` is how it starts its own workers."""
    parser = argparse.ArgumentParser(
        description="Images per CPU-second and memory against the number of images."
    )
    parser.add_argument("--images", type=int, default=1000, help="the smallest count")
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.images, arguments.factors, arguments.rounds, Path(folder))


if __name__ == "__main__":
    main()
