"""``predict``: draw a model's detections on images."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.cli import Parser, new_parser, say, show
from yolo_core.errors import UsageError

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")


def predict(argv: Sequence[str]) -> int:
    """Detect objects in images, write pictures with boxes, and return the exit code."""
    options = _parse(argv)
    for name in options.images:
        if not Path(name).is_file():
            raise UsageError(f"no image at {name}; check the path")
    from components.predict.draw import draw, read, write
    from components.predict.model import open_model

    images = [read(Path(name)) for name in options.images]
    detect = open_model(options)
    targets = output_paths([Path(name) for name in options.images], options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    shown: list[dict[str, Any]] = []
    for name, image, target in zip(options.images, images, targets, strict=True):
        detections = detect(image)
        write(target, draw(image, detections))
        shown.append({"image": name, "output": str(target), "detections": detections})
        if not options.json:
            say(f"{name}: {summary(detections)} -> {target}")
    if options.json:
        show({"model": options.model, "images": shown}, as_json=True)
    return 0


def summary(detections: Sequence[dict[str, Any]]) -> str:
    """Say how many objects of each class there are, most frequent first."""
    counts = Counter(str(found["name"]) for found in detections)
    parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{len(detections)} detections ({parts})" if parts else "no detections"


def output_paths(images: Sequence[Path], folder: Path) -> list[Path]:
    """Return one path in the folder per image, distinct even when names repeat; JPEG and PNG stay such."""
    taken: set[str] = set()
    paths = []
    for image in images:
        suffix = image.suffix.lower() if image.suffix.lower() in _KEPT_SUFFIXES else ".png"
        name, count = f"{image.stem}{suffix}", 1
        while name in taken:
            count += 1
            name = f"{image.stem}-{count}{suffix}"
        taken.add(name)
        paths.append(folder / name)
    return paths


def _parse(argv: Sequence[str]) -> Namespace:
    parser = new_parser("predict", "Draw a model's detections on images.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG or PNG files")
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="models:/NAME@champion, models:/NAME/VERSION, or the path of a .safetensors or .pt checkpoint, "
        "or of an export",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions"
    )
    _add_params(parser)
    return parser.parse_args(argv)


def _add_params(parser: Parser) -> None:
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="of a registered model: best, checkpoint or an exported format such as onnx (default: best)",
    )
    parser.add_argument(
        "--conf",
        "--confidence",
        dest="confidence",
        type=_fraction,
        default=0.25,
        help="least score, 0..1 (default: 0.25)",
    )
    parser.add_argument(
        "--iou", type=_fraction, default=0.45, help="overlap above which the weaker box goes (default: 0.45)"
    )
    parser.add_argument(
        "--max-det",
        "--max-detections",
        dest="max_detections",
        type=_positive,
        default=300,
        help="most boxes per image (default: 300)",
    )
    parser.add_argument(
        "--image-size", type=_positive, metavar="PIXELS", help="longest side (default: the model's own)"
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="checkpoints only: look at each image three times, also smaller and mirrored",
    )


def _fraction(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise ValueError
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


# argparse names a type by this in "invalid ... value".
_fraction.__name__ = "fraction (0..1)"
_positive.__name__ = "positive whole number"
