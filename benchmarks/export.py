"""Every exported format beside PyTorch, in turns in one process: milliseconds, size and AP.

Run ``python benchmarks/export.py`` from the repository's root. The official yolov5n goes through the export
stage with COCO128 (see `export_all`, which prints how the stage judged it): 64 images for AP, and the other
64 to calibrate with. Then all that runs here takes turns at one photo, and at several: from a float tensor to
raw outputs, without suppression. ``--keep FOLDER`` keeps the exports, and uses those that are there.

``--profile FORMAT`` shows instead what one of OpenVINO's formats spends its time on, by kind of layer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from coco128 import official_model, split_paths, stop_without_assets
from export_all import run_stage
from timing import Comparison, compare, set_threads
from torch import Tensor

from yolo_core.data.images import read_image
from yolo_core.errors import YoloError
from yolo_core.export.backend import DetectingBackend
from yolo_core.export.backends import FORMATS, load_exported
from yolo_core.export.openvino import without_telemetry
from yolo_core.export.parity import to_input

EAGER, FUSED = "pytorch", "pytorch, fused"
_REPORT = Path("exports") / "yolov5n"
_REPEATS, _PASSES = 3, 20
_HEADS = ("format", "runs in", "MB", "export s", "1 image", "faster", "by cpu", "N images", "faster", "AP")


def main() -> None:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description="All exported formats side by side.")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--size", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images of the second figure")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--profile", metavar="FORMAT")
    arguments = parser.parse_args()
    stop_without_assets()
    set_threads(arguments.threads)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        root = (arguments.keep or Path(scratch)).resolve()
        path = root / _REPORT / "parity.json"
        if not path.is_file():
            run_stage(root, arguments.formats, arguments.size)
            print(f"exported and checked in {time.perf_counter() - began:.0f} s")
        report = json.loads(path.read_text(encoding="utf-8"))
        images = _images(arguments.batch, int(report["image_size"]))
        if arguments.profile:
            _profile(path.parent / report["formats"][arguments.profile]["file"], images[:1])
        else:
            _measure(report, path.parent, images, arguments.rounds)


def _images(count: int, size: int) -> Tensor:
    return torch.cat([to_input(read_image(path), size) for path in split_paths()["train"][:count]])


def _measure(report: dict[str, Any], folder: Path, images: Tensor, rounds: int) -> None:
    model = official_model()
    ways: dict[str, Callable[[Tensor], object]] = {EAGER: model, FUSED: deepcopy(model).fuse()}
    rows = dict.fromkeys(ways, report["pytorch"])
    for name, row in report["formats"].items():
        rows[name] = row
        try:
            backend = load_exported(folder / row["file"]) if "file" in row else None
        except YoloError as error:
            print(f"{name} does not run here: {error}")
            continue
        if backend is not None and not isinstance(backend, DetectingBackend):
            ways[name] = backend
    with torch.inference_mode():
        one = compare({name: _call(way, images[:1], 3) for name, way in ways.items()}, rounds=rounds)
        many = compare(
            {name: _call(way, images, 1) for name, way in ways.items()}, rounds=max(rounds // 4, 3)
        )
    print(
        f"milliseconds per image, N = {len(images)}; AP in points, on {report['pytorch'].get('images', 64)}"
    )
    print(_line([*_HEADS, "change"]))
    for name in rows:
        print(_line(_cells(name, rows[name], one, many, len(images))))


def _call(way: Callable[[Tensor], object], images: Tensor, times: int) -> Callable[[], object]:
    return lambda: [way(images) for _ in range(times)]


def _cells(name: str, row: dict[str, Any], one: Comparison, many: Comparison, count: int) -> list[str]:
    precision, less = row.get("precision", "fp32"), row.get("ap_difference")
    cells = [name, precision, _number(row.get("megabytes"), ".1f"), _number(row.get("export_seconds"), ".1f")]
    if name in one.wall:
        cells += [f"{one.seconds(name) * 1000 / _REPEATS:.1f}", f"{one.ratio(EAGER, name):.2f}"]
        cells += [f"{one.ratio(EAGER, name, cpu=True):.2f}"]
        cells += [f"{many.seconds(name) * 1000 / count:.1f}", f"{many.ratio(EAGER, name):.2f}"]
    else:
        cells += ["-"] * 5
    ap = row.get("ap")
    return [*cells, _number(ap and 100 * ap, ".2f"), _number(less and 100 * less, "+.2f")]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _line(cells: list[str]) -> str:
    first, *others = cells
    return f"{first:16}" + "".join(f"{cell:>10}" for cell in others)


def _profile(path: Path, image: Tensor) -> None:
    """Print the milliseconds of an OpenVINO file by kind of layer and code that runs it, largest first."""
    core = without_telemetry("openvino", "openvino").Core()
    hint = {} if "fp16" in path.name else {"INFERENCE_PRECISION_HINT": "f32"}
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERF_COUNT": True, **hint}
    request = core.compile_model(str(path / "model.xml"), "CPU", options).create_infer_request()
    passes = []
    for _ in range(_PASSES):
        request.infer([image.numpy()])
        spent: Counter[str] = Counter()
        for layer in request.profiling_info:
            spent[f"{layer.node_type} {layer.exec_type}"] += layer.real_time.total_seconds() * 1000
        passes.append(spent)
    medians = {kind: median(spent[kind] for spent in passes) for kind in passes[0]}
    for kind, milliseconds in sorted(medians.items(), key=lambda item: -item[1]):
        if milliseconds >= 0.01:
            print(f"{milliseconds:8.2f} ms  {kind}")


if __name__ == "__main__":
    main()
