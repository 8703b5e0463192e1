"""All formats of one variant, written, checked and timed by the export stage: how long that takes as a whole.

Run ``python benchmarks/export_all.py`` from the repository's root, on an idle machine. The official yolov5n
goes through the stage as ``python -m components export`` runs it, with COCO128: 64 images for parity and AP,
the other 64 to calibrate with. Beside the wall clock it counts processor time of all processes, which a busy
machine disturbs less. Formats whose toolkit is not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from coco128 import WEIGHTS, official_model, stop_without_assets, write_coco128

from components.config import load_section
from components.export.config import ExportConfig
from components.export.subject import check_toolkits
from components.export.work import run
from components.job import Job
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core import save_checkpoint
from yolo_core.errors import UsageError, YoloError
from yolo_core.export.backends import FORMATS

_COLUMNS = (
    ("megabytes", "MB", ".1f"),
    ("export_seconds", "export s", ".1f"),
    ("latency_ms", "model ms", ".1f"),
    ("batch_latency_ms", "at N ms", ".1f"),
    ("detect_ms", "picture ms", ".1f"),
    ("times_faster", "faster", ".2f"),
    ("ap_difference", "AP diff", "+.4f"),
    ("ap_difference_low", "low", "+.4f"),
    ("ap_difference_high", "high", "+.4f"),
    ("matched", "matched", ".3f"),
    ("max_box_error", "box error", ".2g"),
    ("max_score_error", "score error", ".2g"),
)


def main() -> None:
    """Run the stage and print its table."""
    parser = argparse.ArgumentParser(description="The export stage with every format.")
    parser.add_argument("--size", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="keep the workspace, page and all, here")
    arguments = parser.parse_args()
    stop_without_assets()
    with tempfile.TemporaryDirectory() as scratch:
        run_stage((arguments.save or Path(scratch)).resolve(), arguments.formats, arguments.size)


def run_stage(root: Path, formats: Sequence[str], size: int) -> None:
    """Run the export stage in a workspace, on images of so many pixels a side; print its table and time."""
    names = tuple(name for name in formats if _installed(name))
    job = _job(root)
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    config = load_section(params, "export", ExportConfig)
    began, before = time.perf_counter(), _processor_seconds()
    try:
        run(replace(config, formats=names, image_size=size), job)
    except YoloError as error:
        print(f"the stage said: {error}")
    wall, spent = time.perf_counter() - began, _processor_seconds() - before
    _show(json.loads((root / "exports/yolov5n/parity.json").read_text(encoding="utf-8")))
    print(f"{len(names)} formats: {wall:.0f} s on the clock, {spent:.0f} s of processor time")


def _installed(name: str) -> bool:
    try:
        check_toolkits((name,))
    except UsageError as error:
        print(f"left out: {error}")
        return False
    return True


def _job(root: Path) -> Job:
    write_coco128(root / "data" / "dataset")
    metadata = {"image_size": 640, "dataset": "coco128", "source": WEIGHTS.name}
    save_checkpoint(official_model(), root / "models/yolov5n/best.safetensors", metadata)
    return Job(
        stage="export",
        variant="yolov5n",
        workspace=Workspace(root=root, uri=str(root)),
        tracker=NullTracker(),
        run_id="benchmark",
        params={},
    )


def _processor_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _show(report: dict[str, Any]) -> None:
    print(f"{'':14} {'':5} {'verdict':13}" + "".join(f"{title:>12}" for _, title, _ in _COLUMNS))
    print(_line("pytorch", {**report["pytorch"], "precision": "fp32", "verdict": ""}))
    for name, row in report["formats"].items():
        print(_line(name, row))
        if row["reasons"]:
            print(f"{'':14} {'; '.join(row['reasons'])}")
    print(f"ship: {report['ship']}; {report['threads']} threads, N = {report['latency_batch']}")


def _line(name: str, row: dict[str, Any]) -> str:
    cells = [format(row[key], form) if row.get(key) is not None else "-" for key, _, form in _COLUMNS]
    head = f"{name:14} {row.get('precision', '-'):5} {row['verdict']:13}"
    return head + "".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    main()
