"""Training and inference on a GPU: images per second of yolov5n, s and m at 640 px, and where the time goes.

Run ``python benchmarks/gpu.py`` from the repository's root. Says so where torch sees no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from timing import ROUNDS
from torch import Tensor
from training_step import draw_batch

from yolo_core import create_model
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.precision import choose_precision, to_floats
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.metrics.nms import NmsSettings, suppress

_CUDA = torch.device("cuda")


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median seconds of some work on the GPU, after a first time that is not counted."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def measure_training(name: str, precision: str, batch: tuple[Tensor, Tensor], rounds: int) -> None:
    """Print images per second of whole steps, and the share of transfer, forward and backward pass."""
    images, targets = batch[0].pin_memory(), batch[1].pin_memory()
    schedule = Schedule(
        hyperparameters=Hyperparameters(warmup_epochs=0), iterations_per_epoch=1000, epochs=10, batch_size=64
    )
    compute = Compute(device=_CUDA, precision=choose_precision(precision, _CUDA), ranks=Ranks())
    step = TrainStep(create_model(name), schedule, images.shape[-1], compute)
    whole = seconds(lambda: step.backward(step.forward(images, targets).total), rounds)
    moved = seconds(lambda: to_floats(images, _CUDA), rounds)
    forward = seconds(lambda: step.forward(images, targets), rounds)
    shares = (moved / whole, (forward - moved) / whole, 1 - forward / whole)
    print(
        f"  {name} training, {compute.precision.name}: {len(images) / whole:8.0f} images/s; "
        "transfer {:.0%}, forward and loss {:.0%}, backward and update {:.0%}".format(*shares)
    )


@torch.inference_mode()
def measure_inference(name: str, precision: str, images: Tensor, rounds: int) -> None:
    """Print images per second from pinned bytes to detections, and the share of the model."""
    pinned, nms = images.pin_memory(), NmsSettings()
    detector = FastDetector(create_model(name), precision=precision, device="cuda")

    def run() -> None:
        suppress(detector.likely(to_floats(pinned, _CUDA), nms.confidence), nms)

    floats = to_floats(pinned, _CUDA)
    whole = seconds(run, rounds)
    model = seconds(lambda: detector.likely(floats, nms.confidence), rounds)
    print(
        f"  {name} inference, {precision}, batch {len(images)}: {len(images) / whole:8.0f} images/s; "
        f"model {model / whole:.0%}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Training and inference on a GPU.")
    parser.add_argument("--variants", nargs="+", default=["yolov5n", "yolov5s", "yolov5m"])
    parser.add_argument("--size", type=int, default=640, metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3 * ROUNDS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("GPU: not measured, torch sees none here")
        return
    best = choose_precision("auto", _CUDA).name
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.size} px")
    batch = draw_batch(arguments.batch, arguments.size)
    for name in arguments.variants:
        for precision in ("fp32", best):
            measure_training(name, precision, batch, arguments.rounds)
        for precision in ("fp32", best):
            measure_inference(name, precision, batch[0], arguments.rounds)
            measure_inference(name, precision, batch[0][:1], arguments.rounds)


if __name__ == "__main__":
    main()
