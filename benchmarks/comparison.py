"""Time ``compare-models`` on COCO128: two models that must be evaluated, and the same from their detections.

Whole commands, the start of Python and logging to a fresh MLflow database included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from coco128 import WEIGHTS, official_model, stop_without_assets, write_coco128

from yolo_core import save_checkpoint

REPO = Path(__file__).resolve().parents[1]


def timed(root: Path, *words: str) -> dict[str, float]:
    """Run a command; return seconds of wall and of processors."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "components", *words, "--workspace", str(root)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu}


def main() -> None:
    """Write the data and a worse model, compare twice, print seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", default="640")
    size = parser.parse_args().image_size
    stop_without_assets()
    root = Path(tempfile.mkdtemp(prefix="comparison-"))
    try:
        write_coco128(root / "data" / "dataset")
        noisy, model = root / "noisy.safetensors", official_model()
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 4:
                    weight.add_(0.03 * weight.std() * torch.randn_like(weight))
        save_checkpoint(model, noisy, {})
        common = ("compare-models", "--split", "train")
        fresh = timed(root, *common, str(WEIGHTS), str(noisy), "--image-size", size)
        folders = []
        for path in (WEIGHTS, noisy):
            folder = root / path.stem
            words = (
                "val",
                str(path),
                "--split",
                "train",
                "--image-size",
                size,
                "--no-track",
                "--out",
                str(folder),
            )
            timed(root, *words)
            folders.append(str(folder))
        stored = timed(root, *common, *folders)
    finally:
        shutil.rmtree(root)
    shown = {"evaluated": fresh, "from stored detections": stored}
    print(json.dumps({key: {k: round(v, 1) for k, v in value.items()} for key, value in shown.items()}))


if __name__ == "__main__":
    main()
