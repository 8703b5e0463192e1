"""Training and validation beside the PyPI package `ultralytics`, in turns, on COCO128.

Run ``python benchmarks/against_ultralytics.py PYTHON`` from the repository's root, where PYTHON is the
interpreter of an environment of its own that has the package; the project never depends on it. For example::

    python3 -m venv /tmp/other
    /tmp/other/bin/pip install ultralytics==8.4.190 torch==2.14.1 torchvision==0.29.1 opencv-python-headless
    python benchmarks/against_ultralytics.py /tmp/other/bin/python

Its model of the name yolov5n has the same backbone and another head ("u": no anchors, no objectness).
Training: from scratch with mosaic, images in memory, nothing but batches timed. Validation at batch 1, of the
model that each has just trained, and ours also of the official weights, which leave more to suppress: the
whole call from files to mAP, and the sum of preparation, model and suppression as each says it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from coco128 import (
    FOLDER,
    label_path,
    official_model,
    split_paths,
    stop_without_assets,
    write_coco128,
)
from timing import progress, set_threads
from training_step import fast_step

from yolo_core import create_model
from yolo_core.data.augment import Augmentation
from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.engine.precision import choose_precision
from yolo_core.model.graph import DetectionModel

_CLOCKS = ("wall", "cpu")
_WAYS = {
    "train, ultralytics": _CLOCKS,
    "train, ours": _CLOCKS,
    "val, ultralytics": (*_CLOCKS, "parts"),
    "val, ours": (*_CLOCKS, "parts"),
    "val, ours with the official weights": (*_CLOCKS, "parts"),
}
_TRAIN, _BATCH, _VAL = 320, 16, 640


class Other:
    """The package in its own process."""

    def __init__(self, python: Path, scratch: Path, threads: int) -> None:
        """Start it on a copy of COCO128 in YOLO's layout, which it may write its caches into."""
        data = scratch / "data.yaml"
        folder = scratch / "yolo"
        _write_yolo_folder(folder)
        names = yaml.safe_load((FOLDER / "data.yaml").read_text())["names"]
        entries = {"train": "images/train", "val": "images/val", "names": dict(enumerate(names))}
        data.write_text(yaml.safe_dump({"path": str(folder), **entries}))
        worker = Path(__file__).with_name("ultralytics_worker.py")
        images = str(len(split_paths()["val"]))
        quiet = {"YOLO_OFFLINE": "true", "YOLO_CONFIG_DIR": str(scratch), "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [str(python), str(worker), str(data), str(scratch / "runs"), images, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | quiet,
            cwd=scratch,
        )

    def __call__(self, order: str) -> dict[str, Any]:
        """Have an order done and return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if "RESULT " in line:
                answer: dict[str, Any] = json.loads(line.split("RESULT ", 1)[1])
                return answer
        sys.exit("the other environment ended early; does its Python have the package ultralytics?")

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


def _write_yolo_folder(folder: Path) -> None:
    for split, paths in split_paths().items():
        for image in paths:
            for kind, source in (("images", image), ("labels", label_path(image))):
                target = folder / kind / split / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.exists():
                    shutil.copyfile(source, target)


class Ours:
    """Training and validation as the project does them."""

    def __init__(self, dataset: DetectionDataset) -> None:
        """Hold the training images in memory."""
        samples = dataset.samples("train")
        settings = TrainLoaderSettings(image_size=_TRAIN, batch_size=_BATCH, augmentation=Augmentation())
        self._loader = TrainLoader(
            samples, settings, build_cache(samples, CacheSettings(image_size=_TRAIN, memory_bytes=2**31))
        )
        self._dataset = dataset
        self._precision = choose_precision("auto", torch.device("cpu")).name
        self.model: DetectionModel | None = None

    def train(self) -> dict[str, list[float]]:
        """Train one epoch from scratch; seconds between the ends of batches."""
        step = fast_step(create_model("yolov5n"), _TRAIN, "auto")
        marks = []
        for batch in self._loader:
            step.backward(step.forward(batch.images, batch.targets).total)
            marks.append((time.perf_counter(), time.process_time()))
        self.model = step.ema.model
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
        return {"wall": [wall for wall, _ in steps], "cpu": [cpu for _, cpu in steps]}

    def validate(self, model: DetectionModel) -> dict[str, Any]:
        """Validate; milliseconds per image of the whole, to mAP."""
        wall, cpu = time.perf_counter(), time.process_time()
        result: Evaluation = evaluate(model, self._dataset, "val", EvalSettings(precision=self._precision))
        _ = result.metrics.map
        scale = 1000 / len(result.matches)
        wall, cpu = (time.perf_counter() - wall) * scale, (time.process_time() - cpu) * scale
        return {"wall": wall, "cpu": cpu, "parts": result.speed.total_ms}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed beside the package ultralytics.")
    parser.add_argument("python", type=Path, help="interpreter of an environment that has the package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    stop_without_assets()
    set_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_coco128(Path(folder) / "coco128")
        other = Other(arguments.python.absolute(), Path(folder), arguments.threads)
        ours, official = Ours(dataset), official_model()
        rows: dict[str, list[dict[str, Any]]] = {}

        def note(name: str, work: Callable[[], dict[str, Any]], number: int) -> None:
            progress(f"round {number + 1} of {arguments.rounds}: {name}")
            rows.setdefault(name, []).append(work())

        for number in range(arguments.rounds):
            note("train, ultralytics", lambda: other(f"train {_TRAIN} {_BATCH}"), number)
            note("train, ours", ours.train, number)
            note("val, ultralytics", lambda: other(f"val {_VAL}"), number)
            assert ours.model is not None
            note("val, ours", partial(ours.validate, ours.model), number)
            note("val, ours with the official weights", partial(ours.validate, official), number)
        other.close()
    progress("")
    _report(rows)


def _report(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Print medians over the rounds, and medians of the ratios of neighbours in time."""
    for name, clocks in _WAYS.items():
        base = f"{name.split(',')[0]}, ultralytics"
        texts = []
        for clock in clocks:
            times, against = ([_middle(row[clock]) for row in rows[which]] for which in (name, base))
            ratio = statistics.median(a / b for a, b in zip(against, times, strict=True))
            middle = statistics.median(times)
            speed = (
                f"{_BATCH / middle:6.1f} images/s" if base.startswith("train") else f"{middle:6.1f} ms/image"
            )
            texts.append(f"{clock} {speed} x{ratio:5.2f}")
        print(f"  {name:36} " + "   ".join(texts))


def _middle(value: float | list[float]) -> float:
    return statistics.median(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
