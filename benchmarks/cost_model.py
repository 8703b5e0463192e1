"""Estimate how fast training would be on 1 to 64 GPUs, and what holds it back first; nothing is measured.

Run ``python benchmarks/cost_model.py`` from the repository's root; every assumption is an option. It prints
the tables of docs/cluster.md.

A step's time is the computation of one GPU, plus the part of the gradients' all-reduce that the backward pass
does not hide, times one plus the overhead of the framework. The ring all-reduce of N processes sends
2 (N - 1) / N bytes per byte of gradients over every link, in 2 (N - 1) hops.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from yolo_core import create_model
from yolo_core.model.profile import count_parameters

VARIANTS = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
GPUS = (1, 2, 4, 8, 16, 32, 64)
RELEASE_MS = {"yolov5n": 0.6, "yolov5s": 0.9, "yolov5m": 1.7, "yolov5l": 2.7, "yolov5x": 4.8}
"""The release's milliseconds per image of inference at 640 px on one V100 with batches of 32."""
RELEASE_BATCH = {"yolov5n": 64, "yolov5s": 64, "yolov5m": 40, "yolov5l": 24, "yolov5x": 16}
"""Images per V100 of 16 GB in the release's trainings; n as s."""
COCO_IMAGES, COCO_BYTES = 118_287, 19.3e9
_BACKWARD = 2 / 3
"""Share of a step's computation: two products of the forward pass's size for each of its own."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What the estimate rests on, in SI units; none of it but ``load_cpu`` was measured by this project.

    Attributes:
        gpu_factor: how many times faster than a V100 a GPU is.
        passes: computation of a training step per image, in forward passes.
        gradient_bytes: sent per parameter: 4 as DDP does it, 2 with compression.
        gpus_per_node: GPUs that share a network card.
        node_bandwidth: bytes per second between GPUs of a node, as an all-reduce attains.
        network: bytes per second that a node's card attains.
        hop: seconds of latency of each hop.
        bucket: bytes that are reduced at once (DDP's 25 MiB).
        overhead: of Ray Train over plain torch; Ray publishes that both are within 2.5 %.
        fixed: seconds per epoch besides steps: validation's end, saving, reporting.
        load_cpu: CPU-seconds per training image, cached; ``load_cpu_uncached`` without a cache.
    """

    gpu_factor: float = 1.0
    passes: float = 3.0
    gradient_bytes: float = 4.0
    gpus_per_node: int = 8
    node_bandwidth: float = 100e9
    network: float = 10e9
    hop: float = 20e-6
    bucket: float = 25 * 2**20
    overhead: float = 0.025
    fixed: float = 2.0
    load_cpu: float = 0.0036
    load_cpu_uncached: float = 0.0123


def compute_seconds(variant: str, given: Assumptions) -> float:
    """Return the seconds that one GPU computes on its batch."""
    return RELEASE_BATCH[variant] * RELEASE_MS[variant] / 1000 * given.passes / given.gpu_factor


def all_reduce_bytes(parameters: int, gpus: int, given: Assumptions) -> float:
    """Return the bytes that each process sends per step in a ring."""
    return 2 * (gpus - 1) / gpus * parameters * given.gradient_bytes


def all_reduce_seconds(parameters: int, gpus: int, given: Assumptions) -> float:
    """Return the seconds of one all-reduce; the slowest link of the ring decides."""
    if gpus == 1:
        return 0.0
    link = given.node_bandwidth if gpus <= given.gpus_per_node else min(given.network, given.node_bandwidth)
    latency = 2 * (gpus - 1) * given.hop * buckets(parameters, given)
    return all_reduce_bytes(parameters, gpus, given) / link + latency


def buckets(parameters: int, given: Assumptions) -> int:
    """Return in how many parts the gradients are reduced."""
    return max(math.ceil(parameters * given.gradient_bytes / given.bucket), 1)


def step_seconds(variant: str, parameters: int, gpus: int, given: Assumptions) -> float:
    """Return the seconds of a step: the last part of the gradients is never hidden by the backward pass."""
    compute = compute_seconds(variant, given)
    sending, parts = all_reduce_seconds(parameters, gpus, given), buckets(parameters, given)
    hidden = _BACKWARD * compute * (1 - 1 / parts)
    return (compute + max(sending - hidden, sending / parts)) * (1 + given.overhead)


def images_per_second(variant: str, parameters: int, gpus: int, given: Assumptions) -> float:
    """Return the images per second of all GPUs together, within an epoch."""
    return gpus * RELEASE_BATCH[variant] / step_seconds(variant, parameters, gpus, given)


def epoch_seconds(speed: float, given: Assumptions) -> float:
    """Return the seconds of an epoch of COCO."""
    return COCO_IMAGES / speed + given.fixed


def throughput_table(parameters: dict[str, int], given: Assumptions) -> list[str]:
    """Return rows of images per second, with the efficiency against one GPU."""
    lines = [f"| GPUs | {' | '.join(map(str, GPUS))} |", "|---" * (len(GPUS) + 1) + "|"]
    for variant, count in parameters.items():
        speeds = [images_per_second(variant, count, gpus, given) for gpus in GPUS]
        cells = [f"{s:,.0f} ({s / g / speeds[0]:.0%})" for s, g in zip(speeds, GPUS, strict=True)]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def limits_table(parameters: dict[str, int], given: Assumptions) -> list[str]:
    """Return rows of what 64 GPUs would ask of everything else."""
    lines = [
        "| | all-reduce per step | cores per GPU, cached | without | from storage, uncached | "
        "epoch of COCO | fixed part |",
        "|---" * 7 + "|",
    ]
    most = GPUS[-1]
    for variant, count in parameters.items():
        speed = images_per_second(variant, count, most, given)
        epoch = epoch_seconds(speed, given)
        cells = (
            f"{all_reduce_bytes(count, most, given) / 1e6:.0f} MB",
            f"{speed / most * given.load_cpu:.1f}",
            f"{speed / most * given.load_cpu_uncached:.1f}",
            f"{speed * COCO_BYTES / COCO_IMAGES / 1e9:.1f} GB/s",
            f"{epoch:.0f} s",
            f"{given.fixed / epoch:.0%}",
        )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def network_table(parameters: dict[str, int], given: Assumptions, gigabits: Sequence[int]) -> list[str]:
    """Return rows of the efficiency of two nodes, by the network between them."""
    two = 2 * given.gpus_per_node
    lines = [f"| {two} GPUs | {' | '.join(f'{each} Gbit/s' for each in gigabits)} |"]
    lines.append("|---" * (len(gigabits) + 1) + "|")
    for variant, count in parameters.items():
        alone = images_per_second(variant, count, 1, given)
        cells = []
        for each in gigabits:
            changed = {item.name: getattr(given, item.name) for item in fields(given)}
            slower = Assumptions(**{**changed, "network": 0.8 * each / 8 * 1e9})
            cells.append(f"{images_per_second(variant, count, two, slower) / two / alone:.0%}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the assumptions and the tables."""
    parser = argparse.ArgumentParser(description="Estimated images per second on 1 to 64 GPUs.")
    for item in fields(Assumptions):
        kind = type(item.default)
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=kind, default=item.default)
    given = Assumptions(**vars(parser.parse_args()))
    parameters = {variant: count_parameters(create_model(variant)) for variant in VARIANTS}
    print("Assumed:", ", ".join(f"{item.name} {getattr(given, item.name):g}" for item in fields(given)), "\n")
    for title, table in (
        ("Images per second at 640 px (share of so many times one GPU)", throughput_table(parameters, given)),
        (f"What {GPUS[-1]} GPUs ask for", limits_table(parameters, given)),
        ("Efficiency of two nodes by their network", network_table(parameters, given, (1, 10, 25, 100))),
    ):
        print(title, "", *table, "", sep="\n")


if __name__ == "__main__":
    main()
