"""How long the helpers of a training take: a dry run on the built-in dataset, and measuring a batch size.

    python benchmarks/starting.py

Targets on an idle core: the dry run under 5 s, the probe for yolov5n on a CPU under 10 s.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components.train.probing import probe_apart
from yolo_core.engine.batch_size import ProbeRequest, choose_batch

STAGES = (["dataset"], ["validate"])
RUNS = 3


def command(root: str, *words: str) -> float:
    """Run a command of the project in a workspace; returns its seconds."""
    started = time.perf_counter()
    line = [sys.executable, "-m", "components", *words, "--workspace", root]
    subprocess.run(line, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the best of a few runs of each."""
    if not Path("params.yaml").is_file():
        sys.exit("run it in the repository's root")
    with tempfile.TemporaryDirectory() as root:
        for words in STAGES:
            command(root, *words)
        dry = min(command(root, "train", "--variant", "yolov5n", "--dry-run") for _ in range(RUNS))
        print(f"dry run, yolov5n, built-in dataset: {dry:.1f} s")
    for side in (192, 640):
        request = ProbeRequest(
            variant="yolov5n",
            num_classes=10,
            side=side,
            precision="auto",
            optimizer="sgd",
            device="cpu",
            most=64,
        )
        started = time.perf_counter()
        readings = probe_apart(request)
        seconds = time.perf_counter() - started
        print(f"probe, yolov5n at {side} px: {seconds:.1f} s, batches {', '.join(map(str, readings.taken))}")
        print(f"  chosen: {choose_batch(readings, request.most)}")


if __name__ == "__main__":
    main()
