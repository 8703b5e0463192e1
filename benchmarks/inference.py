"""One image through a detector, plain and as `FastDetector` does it, side by side.

Run ``python benchmarks/inference.py`` from the repository's root. From a uint8 image of 640 x 640 px to the
model's output of 25,200 decoded boxes; and to detections at confidence 0.25, for which `FastDetector` decodes
only likely boxes.
"""

from __future__ import annotations

import argparse
from copy import deepcopy

import torch
from timing import ROUNDS, compare, report, set_threads
from torch import Tensor

from yolo_core import create_model
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.precision import choose_precision, to_floats
from yolo_core.metrics.nms import NmsSettings, suppress

_CPU = torch.device("cpu")
_REPEATS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Inference at batch 1, plain and as the project does it.")
    parser.add_argument("--variant", default="yolov5n")
    parser.add_argument("--size", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=3 * ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    torch.manual_seed(0)
    model = create_model(arguments.variant).eval()
    fused = deepcopy(model).fuse().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    best = choose_precision("auto", _CPU).name
    fast = {name: FastDetector(model, precision=name) for name in {"fp32": 0, best: 0}}
    image = torch.randint(0, 256, (1, 3, arguments.size, arguments.size), dtype=torch.uint8)
    nms = NmsSettings()

    def likely(detector: FastDetector) -> list[Tensor]:
        return suppress(detector.likely(to_floats(image, _CPU), nms.confidence), nms)

    ways = {
        "plain, output": lambda: model(image.float() / 255),
        "fused, channels_last, output": lambda: fused(to_floats(image, _CPU)),
        **{
            f"FastDetector {name}, output": lambda detector=detector: detector(to_floats(image, _CPU))
            for name, detector in fast.items()
        },
        "plain, detections": lambda: suppress(model(image.float() / 255), nms),
        **{
            f"FastDetector {name}, detections": lambda detector=detector: likely(detector)
            for name, detector in fast.items()
        },
    }

    def repeated(way: object) -> object:
        return lambda: [way() for _ in range(_REPEATS)]  # type: ignore[operator]

    with torch.inference_mode():
        result = compare({name: repeated(way) for name, way in ways.items()}, rounds=arguments.rounds)  # type: ignore[misc]
    for base in ("plain, output", "plain, detections"):
        title = f"{arguments.variant}, {arguments.size} px, batch 1, against {base}"
        report(title, result, base, per=_REPEATS)


if __name__ == "__main__":
    main()
