"""How many images a step can hold: the memory of real steps at growing batches, and what follows from it.

Memory grows in a straight line with the batch, so a few small steps tell what a large one takes. The choice
is a power of two, so that small differences in what else runs on a machine do not change it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from yolo_core.data.cache import spare_memory
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.recipe import Hyperparameters
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.step import Compute, TrainStep
from yolo_core.errors import UsageError
from yolo_core.model.graph import create_model

HEADROOM = 0.8
"""Share of the memory there is that a training may be expected to take."""
CACHE_SHARE = 0.5
"""Share of a machine's memory that is left to the caches of decoded images (`yolo_core.data.cache`)."""
MOST_ON_CPU = 64
"""Images over all workers: the recipe's nominal batch, beyond which a CPU computes no faster."""
STEPS_PER_EPOCH = 16
"""The least steps that an epoch shall have: warm-up, averaging and learning itself count in steps."""
LEAST = 2
"""Images per worker: batch norms need more than one."""
_BOXES = 8  # per image: the loss takes little beside the layers
_SURE = 3  # batches that are tried whatever they cost: a line needs points
_SECONDS = 4.0  # of computing, after which no further batch is tried on a CPU


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What a worker will train.

    Attributes:
        variant, num_classes: of the model.
        side: of the largest images in pixels.
        precision: auto, fp32, bf16 or fp16.
        optimizer: sgd or adamw.
        device: cpu or cuda.
        most: images of a worker's batch that are not exceeded.
        sharers: workers that share this machine's memory; on GPUs each has its own.
    """

    variant: str
    num_classes: int
    side: int
    precision: str
    optimizer: str
    device: str
    most: int
    sharers: int = 1


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What was measured: bytes that a worker may take, and bytes that it took by the images of its batch."""

    budget: int
    taken: Mapping[int, int]


def most_images(images: int, workers: int, device: str) -> int:
    """Return the largest batch of a worker that data and device allow; a power of two, 2 at least."""
    whole = images // STEPS_PER_EPOCH
    if device == "cpu":
        whole = min(whole, MOST_ON_CPU)
    return max(_power_of_two(whole // workers), LEAST)


def choose_batch(readings: Readings, most: int) -> int:
    """Return the largest power of two of images, ``most`` at most, whose memory is within the budget.

    Raises:
        UsageError: not even the least batch is.
    """
    batch = _power_of_two(most)
    while batch >= LEAST and expected_bytes(readings.taken, batch) > readings.budget:
        batch //= 2
    if batch < LEAST:
        needed = expected_bytes(readings.taken, LEAST)
        raise UsageError(
            f"batch_size auto: {LEAST} images take {needed / 2**30:.2f} GiB, and a worker may take "
            f"{readings.budget / 2**30:.2f}; lower image_size or workers, or name a smaller variant"
        )
    return batch


def expected_bytes(taken: Mapping[int, int], batch: int) -> float:
    """Return the memory of a batch on the steepest straight line that two measurements in turn suggest.

    Without any measurement it is infinite; with one it is taken to grow in proportion.
    """
    if batch in taken:
        return float(taken[batch])
    points = sorted(taken.items())
    if not points:
        return math.inf
    if len(points) == 1:
        return points[0][1] * batch / points[0][0]
    slope = max(0.0, *((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(points)))
    largest, base = points[-1]
    return base + slope * (batch - largest)


def probe(request: ProbeRequest, report: Callable[[int, int], None] | None = None) -> Readings:
    """Take real steps, forward, backward and optimiser, at growing batches, and measure their memory.

    Run it in a process of its own: on a CPU the peak of the whole process is what is read, and a GPU's memory
    is not wholly given back. Stops at ``most``, before a batch that would not fit, or on a CPU after
    three batches and four seconds of computing.

    Args:
        request: what will be trained.
        report: called with images and bytes after each batch, as memory may end the process at the next.
    """
    device = torch.device(request.device)
    meter = _CudaMeter() if device.type == "cuda" else _CpuMeter(request.sharers)
    step = _build_step(request, device)
    taken: dict[int, int] = {}
    batch, started = LEAST, time.process_time()  # a busy machine must not change what is found
    while batch <= request.most and expected_bytes(taken or {batch: 0}, batch) <= meter.budget:
        try:
            _take_steps(step, request, batch)
        except torch.OutOfMemoryError:
            break
        taken[batch] = meter.peak()
        if report is not None:
            report(batch, taken[batch])
        spent = time.process_time() - started
        if device.type == "cpu" and len(taken) >= _SURE and spent > _SECONDS:
            break
        batch *= 2
    return Readings(budget=meter.budget, taken=taken)


class _CpuMeter:
    """Reads this process's peak; its budget is what the machine had left for it, shared evenly."""

    def __init__(self, sharers: int) -> None:
        gc.collect()
        own = self.peak()  # taken already, and part of every reading
        self.budget = own + int(spare_memory() * HEADROOM * (1 - CACHE_SHARE) / sharers)

    def peak(self) -> int:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise UsageError("batch_size auto: this system does not tell a process's memory; give a number")


class _CudaMeter:
    """Reads the peak that torch holds of the current GPU; its budget is a share of what is free there."""

    def __init__(self) -> None:
        free, _ = torch.cuda.mem_get_info()
        self.budget = int(free * HEADROOM)
        torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return torch.cuda.max_memory_reserved()


def _build_step(request: ProbeRequest, device: torch.device) -> TrainStep:
    recipe = Hyperparameters(optimizer=request.optimizer, nominal_batch=1, clip_norm=1.0)
    schedule = Schedule(hyperparameters=recipe, iterations_per_epoch=100, epochs=1, batch_size=1)
    compute = Compute(device=device, precision=choose_precision(request.precision, device), ranks=Ranks())
    model = create_model(request.variant, request.num_classes)
    return TrainStep(model, schedule, request.side, compute)


def _take_steps(step: TrainStep, request: ProbeRequest, batch: int) -> None:
    """Take two steps on noise: the second finds gradients and the optimiser's memory allocated."""
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, 3, request.side, request.side)
    targets = torch.rand((batch * _BOXES, 6), generator=generator)
    targets[:, 0] = torch.arange(batch).repeat_interleave(_BOXES)
    targets[:, 1] = torch.arange(batch * _BOXES) % request.num_classes
    targets[:, 4:] = targets[:, 4:] * 0.4 + 0.02
    for _ in range(2):
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        step.backward(step.forward(images, targets).total)


def _power_of_two(number: int) -> int:
    return 1 << (max(number, 1).bit_length() - 1)
