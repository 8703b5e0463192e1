"""How long the training loop waits for a checkpoint: `python benchmarks/checkpoint_stall.py`.

Trains on drawn images at 64 pixels, which leaves the state's size as it is, and saves every third iteration.
Two figures: what the loop itself spends on saving (the check that all numbers are finite, and the copy), and
how much longer the iteration after a save takes than others, while the thread writes, digests and stores.
On a busy machine the time on a core says what an idle one would show; memory counts from the first save on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from yolo_core.data.coco import (
    DetectionDataset,
    SourceBox,
    SourceImage,
    class_table,
    open_dataset,
    write_dataset,
)
from yolo_core.engine.epoch import Hooks, Saved, StepProgress
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.settings import TrainSettings
from yolo_core.engine.train import Trainer

EVERY = 3


class Timed(Trainer):
    """A trainer that notes what each save cost its loop: milliseconds, and milliseconds on a core."""

    def __init__(self, settings: TrainSettings, dataset: DetectionDataset, folder: Path) -> None:
        """As `Trainer`."""
        super().__init__(settings, dataset, folder)
        self.stalls: list[tuple[float, float]] = []
        self._save = self._timed(self._save, self.stalls)  # type: ignore[method-assign]

    def _timed(self, work, stalls):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            began, busy = time.perf_counter(), time.thread_time()
            self._step.is_finite()  # the loop asks this before every save
            work(*args)
            stalls.append((1000 * (time.perf_counter() - began), 1000 * (time.thread_time() - busy)))

        return call


def draw_dataset(folder: Path, images: int) -> DetectionDataset:
    """Write a dataset of grey images with one box each."""
    content = cv2.imencode(".png", np.full((64, 64, 3), 128, np.uint8))[1].tobytes()
    box = SourceBox(class_index=0, box=(10.0, 10.0, 30.0, 30.0))
    drawn = [SourceImage(file_name=f"{i:03d}.png", content=content, boxes=[box]) for i in range(images)]
    splits = {"train": drawn, "val": drawn[:2]}
    write_dataset(folder, splits, class_table(["square"]), name="squares", source="drawn")
    return open_dataset(folder)


def measure(variant: str, saves: int) -> tuple[list[tuple[float, float]], list[float], list[float]]:
    """Return what saves cost the loop, and times of iterations after a save and of others: milliseconds."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset = draw_dataset(Path(scratch) / "data", EVERY * saves + 1)
        settings = TrainSettings(
            variant=variant,
            image_size=64,
            epochs=1,
            batch_size=1,
            hyperparameters=Hyperparameters(),
            checkpoint_steps=EVERY,
            precision="fp32",
        )
        trainer = Timed(settings, dataset, Path(scratch) / "run")
        after, other = [], []
        last, saved = time.perf_counter(), False

        def step(progress: StepProgress) -> None:
            nonlocal last, saved
            (after if saved else other).append(1000 * (time.perf_counter() - last))
            last, saved = time.perf_counter(), False

        def mark(_: Saved) -> None:
            nonlocal last, saved
            last, saved = time.perf_counter(), True

        list(trainer.epochs(Hooks(progress=step, saved=mark)))
        return trainer.stalls, after, other[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="yolov5s")
    parser.add_argument("--saves", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stalls, after, other = measure(arguments.variant, arguments.saves)
    print(f"{arguments.variant}: {len(stalls)} saves, {arguments.threads} compute threads")
    for title, values in zip(("the loop waits", "on a core"), zip(*stalls, strict=True), strict=True):
        print(f"{title:15}  median {statistics.median(values):.0f} ms, longest {max(values):.0f} ms")
    usual = statistics.median(other)
    print(f"next iteration   median {statistics.median(after):.0f} ms, others {usual:.0f} ms")


if __name__ == "__main__":
    main()
