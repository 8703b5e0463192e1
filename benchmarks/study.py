"""The study of the official yolov5n on COCO128 at three sizes, and what our timing loop costs.

Run ``python benchmarks/study.py`` from the repository's root. The study is the command ``python -m components
study-all`` in a process of its own, from reading weights to the plot and MLflow: wall-clock and processor
seconds of it and its children. The loop is compared, in processor time and in turns, with the bare calls on
the same tensors: convert, model, suppress, and nothing between.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from coco128 import WEIGHTS, official_model, stop_without_assets, write_coco128
from timing import ROUNDS, compare, set_threads

from yolo_core.data.eval_loader import EvalBatch, EvalLoader
from yolo_core.data.quarantine import write_quarantine
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.inference import EvalSettings, loader_settings, running
from yolo_core.engine.precision import to_floats
from yolo_core.engine.speed import milliseconds, summarise_times
from yolo_core.metrics.nms import suppress

_REPOSITORY = Path(__file__).resolve().parents[1]
_SIZES = (384, 512, 640)


def study(root: Path, sizes: Sequence[int], workers: int) -> dict[str, float]:
    """Run the command in a workspace; returns its wall-clock and processor seconds."""
    shutil.copy(_REPOSITORY / "params.yaml", root)
    settings = {"split": "train", "image_sizes": list(sizes), "workers": workers}
    words = ["study-all", str(WEIGHTS), "--workspace", str(root), "--params", str(root / "params.yaml")]
    for key, value in settings.items():
        words += ["--set", f"study.{key}={value}"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "components", *words], cwd=_REPOSITORY, check=True, stdout=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu}


def overhead(batches: Sequence[EvalBatch], settings: EvalSettings, rounds: int) -> float:
    """Return the share of the model's own time that our loop adds, in processor time: 0.01 is 1 %."""
    detector = FastDetector(official_model())

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            scaled = to_floats(batch.images, detector.device)
            found = suppress(detector.likely(scaled, settings.nms.confidence), settings.nms)
            for image in found:
                image.numpy()

    @torch.inference_mode()
    def model() -> None:
        for batch in batches:
            detector.likely(to_floats(batch.images, detector.device), settings.nms.confidence)

    def ours() -> None:
        with running(detector, settings) as run:
            summarise_times(
                torch.tensor([milliseconds(batch, run(batch.images)) for batch in batches]).numpy()
            )

    result = compare({"bare": bare, "ours": ours, "model": model}, rounds=rounds)
    extra = result.ratio("ours", "bare", cpu=True) - 1
    return extra * result.ratio("bare", "model", cpu=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A study's time, and the cost of the timing loop.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--skip-study", action="store_true", help="measure only the loop")
    arguments = parser.parse_args()
    stop_without_assets()
    set_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = write_coco128(root / "data/dataset")
        write_quarantine(root / "data/dataset", "", {})
        settings = EvalSettings(image_size=320)
        loader = EvalLoader(dataset.samples("train")[:32], loader_settings(official_model(), settings))
        share = overhead(list(loader), settings, arguments.rounds)
        print(
            f"Timing loop, yolov5n, 320 px, batch 1: adds {100 * share:.2f} % to the model's own time (cpu)"
        )
        if arguments.skip_study:
            return
        took = study(root, arguments.sizes, arguments.workers)
        sizes = ", ".join(map(str, arguments.sizes))
        print(
            f"Study of yolov5n on COCO128 at {sizes} px, {os.cpu_count()} cores: "
            f"{took['wall']:.1f} s, {took['cpu']:.1f} cpu-s"
        )


if __name__ == "__main__":
    main()
