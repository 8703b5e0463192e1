"""What Ray costs, how long a training takes to start, and what a second worker gains, measured in turns.

Run ``python benchmarks/distributed.py`` from the repository's root, on idle cores; some 15 minutes. Every
round runs four trainings of the built-in dataset, one after the other, each in processes of its own:

- *bare*: the plan that the train stage makes, trained by `Trainer` alone, on one core;
- *Ray, a core to spare*: ``python -m components train``, one worker with one thread, two cores;
- *Ray, 1 worker*: the same on one core, which Ray's dozen of own processes then share with the worker;
- *Ray, 2 workers*: two of them on two cores, with the same batch per worker.

An epoch is timed from the end of one to the end of the next, validation and saving included, over all epochs
but the first; both sides' lines are stamped as they appear. The start is from the start of the process to
the beginning of the first step, of the training with two workers.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timing import progress

from components.config import load_section, override, read_params
from components.train.config import TrainParams
from components.train.plan import make_plan
from components.train.settle import settle
from yolo_core.data.coco import open_dataset
from yolo_core.data.quarantine import write_quarantine

VARIANT = "yolov5n"
BARE, SPARE, ONE, TWO = "bare", "Ray, a core to spare", "Ray, 1 worker", "Ray, 2 workers"
_LINE = re.compile(rf"{VARIANT} epoch (\d+)/\d+ ")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One training: seconds per epoch, until the first step, and its images per second without validation."""

    epoch: float
    start: float
    images_per_second: float


def prepare(workspace: Path, images: int) -> None:
    """Write the built-in dataset with so many training images, as the stages before would leave it."""
    sizes = [
        f"dataset.builtin.{name}={count}" for name, count in (("train_images", images), ("val_images", 32))
    ]
    command = [sys.executable, "-m", "components", "dataset", "--workspace", str(workspace)]
    command += [word for size in (*sizes, "dataset.builtin.test_images=16") for word in ("--set", size)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    root = workspace / "data" / "dataset"
    write_quarantine(root, open_dataset(root).digest, {})


def settings(arguments: argparse.Namespace, workers: int) -> list[str]:
    """Return the params of a training as KEY=VALUE."""
    values = {
        "workers": workers,
        "cpus_per_worker": 1,
        "batch_size": workers * arguments.batch,
        "image_size": arguments.size,
        "epochs": arguments.epochs,
        "loader_threads": 1,
        "resume": "never",
    }
    return [f"train.{key}={value}" for key, value in values.items()]


def run(name: str, arguments: argparse.Namespace, workspace: Path, cores: Sequence[int]) -> Timing:
    """Train once on some cores and time it."""
    given = settings(arguments, 2 if name == TWO else 1)
    command = [sys.executable, "-m", "components", "train", "--variant", VARIANT]
    if name == BARE:
        command = [sys.executable, __file__, "--bare"]
    command += ["--workspace", str(workspace), *(word for value in given for word in ("--set", value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),  # Ray's processes inherit it
    )
    assert process.stderr is not None
    ends, said = [], []
    for line in process.stderr:
        said.append(line)
        if _LINE.match(line):
            ends.append(time.perf_counter() - began)
            progress(f"{name}: epoch {len(ends)} of {arguments.epochs} after {ends[-1]:.0f} s")
    if process.wait() or len(ends) != arguments.epochs:
        raise SystemExit(f"{name} failed:\n{''.join(said)[-2000:]}")
    with (workspace / "reports" / "train" / f"{VARIANT}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    later = rows[1:]
    return Timing(
        epoch=(ends[-1] - ends[0]) / (len(ends) - 1),
        start=ends[0] - float(rows[0]["seconds"]),
        images_per_second=statistics.mean(float(row["images_per_second"]) for row in later),
    )


def train_bare(workspace: Path, assignments: Sequence[str]) -> None:
    """Train as the stage would, without Ray, MLflow or another process."""
    import torch

    from yolo_core.engine.train import Trainer

    torch.set_num_threads(1)
    dataset = open_dataset(workspace / "data" / "dataset")
    params = override(read_params(Path("params.yaml")), assignments)
    with tempfile.TemporaryDirectory() as folder:
        chosen = settle(load_section(params, "train", TrainParams), VARIANT, dataset, folder)
        plan = make_plan(chosen.config, VARIANT, dataset, workspace)
        trainer = Trainer(plan.settings, dataset, Path(folder) / "states")
        for result in trainer.epochs():
            print(f"{VARIANT} epoch {result.epoch + 1}/{chosen.config.epochs} ", file=sys.stderr, flush=True)
    target = workspace / "reports" / "train" / f"{VARIANT}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(trainer.history[0]))
        table.writeheader()
        table.writerows(trainer.history)


def report(found: dict[str, list[Timing]]) -> None:
    """Print medians over the rounds, and of each round's ratios and differences."""
    print(f"{'':20} {'epoch':>9} {'images/s':>9} {'start':>8}")
    for name, timings in found.items():
        epoch, speed, start = (
            statistics.median(getattr(timing, field) for timing in timings)
            for field in ("epoch", "images_per_second", "start")
        )
        print(f"{name:20} {epoch:7.2f} s {speed:9.1f} {start:6.1f} s")
    rounds = list(zip(found[BARE], found[SPARE], found[ONE], found[TWO], strict=True))
    spare = statistics.median(spare.epoch / bare.epoch - 1 for bare, spare, *_ in rounds)
    shared = statistics.median(one.epoch / bare.epoch - 1 for bare, _, one, _ in rounds)
    print(
        f"Ray's overhead per epoch: {spare:+.1%} with a core to spare for its processes (target: below 5 %), "
        f"{shared:+.1%} where all share one core"
    )
    start = statistics.median(two.start for *_, two in rounds)
    print(f"start to first step, 2 workers: {start:.1f} s (target: below 40 s on 2 cores)")
    whole = statistics.median(one.epoch / two.epoch for *_, one, two in rounds)
    steps = statistics.median(two.images_per_second / one.images_per_second for *_, one, two in rounds)
    print(
        f"2 workers on 2 cores against 1 on 1: x{steps:.2f} in steps, x{whole:.2f} in whole epochs "
        "(target: x1.7)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Ray's overhead, the time to start, and two workers' gain.")
    parser.add_argument("--images", type=int, default=480, help="training images")
    parser.add_argument("--size", type=int, default=320, metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=16, help="per worker")
    parser.add_argument("--epochs", type=int, default=4, help="2 at least; the first is not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        train_bare(arguments.workspace, arguments.set)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or arguments.epochs < 2:
        raise SystemExit("this takes two cores, and two epochs at least")
    ways = {BARE: cores[:1], SPARE: cores[:2], ONE: cores[:1], TWO: cores[:2]}
    found: dict[str, list[Timing]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="distributed-") as folder:
        prepare(Path(folder), arguments.images)
        for _ in range(arguments.rounds):
            for name, mine in ways.items():
                found[name].append(run(name, arguments, Path(folder), mine))
    progress("")
    report(found)


if __name__ == "__main__":
    main()
