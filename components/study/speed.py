"""``speed``: time any model on images of a split, part by part, one image at a time and in batches."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.cli import new_parser, say, show
from components.config import load_section
from components.runner import Options, load_params
from components.store import TrackingConfig
from components.study.arguments import add_model_arguments
from components.study.config import LARGEST_SIZE
from yolo_core.errors import UsageError

_PARTS = {"preprocess": "prepare", "inference": "model", "nms": "suppress", "total": "together"}
_LEVELS = ("mean", "p50", "p90", "p95", "p99")


def speed(argv: Sequence[str]) -> int:
    """Time a model, print a table per batch size, and return the exit code."""
    options = _parse(argv)
    params = load_params(Options.of(options))
    result = measure(options, load_section(params, "tracking", TrackingConfig))
    if options.json:
        show(result, as_json=True)
    else:
        say("\n".join(table_lines(result)))
    return 0


def measure(options: argparse.Namespace, tracking: TrackingConfig) -> dict[str, Any]:
    """Time a model at every batch size that is asked for.

    Returns:
        What was timed on what, and in ``batches`` per batch size, which is smaller than asked where the GPU's
        memory is, and per part the mean, p50, p90, p95 and p99 of the milliseconds per image.

    Raises:
        UsageError: the model or an option cannot be used.
        DataError: the split is absent, or an image does not decode.
        UnreachableError: the model is in MLflow, which does not answer.
    """
    import torch

    from components.study.environment import describe_environment
    from components.study.subject import open_subject
    from yolo_core.data.coco import open_dataset

    root = Path(options.workspace)
    dataset = open_dataset(options.data or root / "data/dataset")
    if options.threads:
        torch.set_num_threads(options.threads)
    subject = open_subject(
        options.model, device=options.device, fmt=options.format, tracking=tracking, root=root
    )
    size = subject.usable(options.image_size)
    batches = [_time(options, subject, dataset, size, batch) for batch in options.batch]
    return {
        "model": subject.about,
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "split": options.split,
        "image_size": size,
        "confidence": options.confidence,
        "iou": options.iou,
        "precision": options.precision if subject.format == "checkpoint" else subject.precision,
        "augment": options.augment,
        "device": subject.device,
        "environment": describe_environment(subject.device, subject.format),
        "batches": batches,
    }


def _time(options: argparse.Namespace, subject: Any, dataset: Any, size: int, batch: int) -> dict[str, Any]:
    from components.study.measure import in_memory
    from components.study.turns import turn
    from yolo_core.engine.evaluate import EvalSettings, measure_speed
    from yolo_core.engine.speed import Speed
    from yolo_core.metrics.nms import NmsSettings

    def at(batch_size: int) -> Speed:
        base = EvalSettings(
            batch_size=batch_size,
            rectangular=not options.square,
            nms=NmsSettings(confidence=options.confidence, iou=options.iou),
            precision=options.precision,
            augment=options.augment,
        )
        settings = subject.settings(size, base)
        images = max(options.images, batch_size)
        samples = dataset.samples(options.split)
        return measure_speed(subject.model, samples, settings, images=images, repeats=options.repeats)

    with turn(alone=True):
        found, used = in_memory(at, batch, size)
    per_second = 1000 / found.total.mean if found.total.mean else None
    return {
        "batch_size": used,
        "timed_batches": found.batches,
        "images_per_second": per_second,
        **found.as_dict(),
    }


def table_lines(result: dict[str, Any]) -> list[str]:
    """Return the result for people: what was timed, then a table per batch size."""
    model, place = result["model"], result["environment"]
    lines = [
        f"{model['source']}: {model['variant']} ({model['format']}), {result['image_size']} px, "
        f"{result['precision']}, confidence {result['confidence']}, IoU {result['iou']}",
        f"on {place.get('gpu', place['cpu'])}, {place['threads']} of {place['cores']} cores, "
        + ", ".join(
            f"{name} {place[name]}" for name in ("torch", "onnxruntime", "openvino") if name in place
        ),
    ]
    for batch in result["batches"]:
        lines += [
            "",
            f"batch {batch['batch_size']}, {batch['timed_batches']} batches, "
            f"{batch['images_per_second']:.1f} images/s",
            "ms per image".ljust(14) + "".join(level.rjust(9) for level in _LEVELS),
        ]
        for part, name in _PARTS.items():
            lines.append(name.ljust(14) + "".join(f"{batch[part][level]:9.2f}" for level in _LEVELS))
    return lines


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("speed", "Time a model on images of a split: milliseconds per image, part by part.")
    add_model_arguments(parser)
    parser.add_argument("--batch", default="1,16", help="images per call, one or several (default: 1,16)")
    parser.add_argument("--images", type=int, default=100, help="of the split, evenly spread (default: 100)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds over them (default: 3)")
    parser.add_argument("--threads", type=int, help="that torch computes with (default: as torch chooses)")
    parser.add_argument("--square", action="store_true", help="all images in squares, not in rectangles")
    parser.add_argument("--confidence", type=float, default=0.25, help="least score (default: 0.25)")
    parser.add_argument(
        "--iou", type=float, default=0.45, help="overlap above which the weaker goes (default: 0.45)"
    )
    options = parser.parse_args(argv)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    """Read the batch sizes, and refuse numbers out of range."""
    try:
        options.batch = [int(word) for word in str(options.batch).split(",")]
    except ValueError:
        raise UsageError(f"--batch {options.batch}: write whole numbers, as 1,16") from None
    numbers = [("--batch", number) for number in options.batch]
    numbers += [(f"--{name}", getattr(options, name)) for name in ("images", "repeats", "threads")]
    numbers.append(("--image-size", options.image_size))
    for name, number in numbers:
        if number is not None and number < 1:
            raise UsageError(f"{name} must be 1 or more, not {number}")
    if options.image_size is not None and options.image_size > LARGEST_SIZE:
        raise UsageError(f"--image-size must be {LARGEST_SIZE} pixels at most, not {options.image_size}")
    for name in ("confidence", "iou"):
        if not 0 <= getattr(options, name) <= 1:
            raise UsageError(f"--{name} must lie in 0..1, not {getattr(options, name)}")
