"""Validation end to end, the straight way and as `evaluate` does it, side by side.

Run ``python benchmarks/evaluation.py`` from the repository's root. Every way reads COCO128's files,
decodes, resizes, runs the official yolov5n at 640 px, suppresses at confidence 0.001 and IoU 0.65, matches
and computes mAP.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from coco128 import official_model, stop_without_assets, write_coco128
from timing import ROUNDS, compare, progress, report, set_threads

from yolo_core.data.coco import Sample
from yolo_core.data.letterbox import fit_size, letterbox, rectangular_shape, resize, to_original
from yolo_core.engine.evaluate import VALIDATION, EvalSettings, evaluate
from yolo_core.engine.precision import choose_precision
from yolo_core.metrics.average_precision import DetectionMetrics, match_detections, summarise
from yolo_core.metrics.nms import non_max_suppression
from yolo_core.model.graph import DetectionModel

_SIZE = 640


@torch.no_grad()
def plain(model: DetectionModel, samples: Sequence[Sample], *, rectangular: bool) -> DetectionMetrics:
    """The straight way: image by image, float32, contiguous, layers as trained, every box decoded."""
    matches = []
    for sample in samples:
        pixels = sample.read_image()
        height, width = pixels.shape[:2]
        new_width, new_height = fit_size(width, height, _SIZE)
        shape = rectangular_shape([(new_width, new_height)], 32) if rectangular else (_SIZE, _SIZE)
        place = letterbox(resize(pixels, new_width, new_height, smooth=True), shape, scale_up=False)
        ratio = (new_width / width, new_height / height)
        planes = np.ascontiguousarray(place.image[..., ::-1].transpose(2, 0, 1))
        out = model(torch.from_numpy(planes)[None].float() / 255)
        rows = non_max_suppression(out, VALIDATION)[0].numpy()
        rows = to_original(rows, ratio, place.pad, (height, width))
        counted = ~sample.crowd
        matches.append(match_detections(rows, sample.boxes[counted], sample.classes[counted]))
    return summarise(matches)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Validation, the straight way and as the project does it.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    stop_without_assets()
    set_threads(arguments.threads)
    model = official_model()
    best = choose_precision("auto", torch.device("cpu")).name
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_coco128(Path(folder) / "coco128")

        def straight(split: str, *, rectangular: bool) -> DetectionMetrics:
            return plain(model, dataset.samples(split), rectangular=rectangular)

        def ours(split: str, precision: str) -> DetectionMetrics:
            return evaluate(model, dataset, split, EvalSettings(precision=precision)).metrics

        ways = {
            "plain, square images": lambda split: straight(split, rectangular=False),
            "plain, rectangular as upstream": lambda split: straight(split, rectangular=True),
            "evaluate, fp32": lambda split: ours(split, "fp32"),
            f"evaluate, {best}": lambda split: ours(split, best),
        }
        timed = {name: lambda way=way: way("val") for name, way in ways.items()}
        result = compare(timed, rounds=arguments.rounds)
        count = len(dataset.samples("val"))
        for base in list(ways)[:2]:
            report(
                f"Validation, yolov5n, {_SIZE} px, {count} images, against {base}", result, base, per=count
            )
        for name, way in ways.items():
            progress(f"mAP of {name}")
            metrics = way("train")
            print(f"  128 images, {name:32} mAP@.5 {metrics.map50:.4f}, mAP {metrics.map:.4f}")


if __name__ == "__main__":
    main()
