"""What every exported file says of itself: enough to run it without anything else."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yolo_core.data.letterbox import GREY
from yolo_core.errors import CheckpointError
from yolo_core.export.base import ExportSettings, Format
from yolo_core.model.graph import DetectionModel

METADATA_KEY = "yolo"
DISTRIBUTION = "yolo-mlops"
_UNSTATED = "not stated"
_REQUIRED = ("format", "names", "stride", "image_size", "batch_size")
# Of a checkpoint's metadata, what travels on into its exports.
_INHERITED = ("category_ids", "dataset", "dataset_digest")
_TENSOR = "input: float32 (B, 3, H, W), RGB in 0..1, letterboxed on grey 114; "
_IMAGE = "input: uint8 (H, W, 3), BGR, of any size; letterbox and scaling are inside; "
_ROWS = "x1, y1, x2, y2, score, class index; best first"
# By kind of input and output.
_DECODE = {
    ("tensor", "raw"): _TENSOR + "output: float32 (B, N, 5 + classes): box as centre x, centre y, width, "
    "height in input pixels, objectness, class scores in 0..1; score of a class = objectness x class score; "
    "non-maximum suppression is not included",
    ("tensor", "detections"): _TENSOR + "outputs: detections, float32 (B, max_detections, 6), rows of "
    f"{_ROWS}, boxes in input pixels, filled up with rows of zeros; counts, int64 (B,), how many rows of "
    "each image are detections; non-maximum suppression as nms says is included",
    ("image", "detections"): _IMAGE + f"output: detections, float32 (n, 6), rows of {_ROWS}, boxes in pixels "
    "of the image as it came; non-maximum suppression as nms says is included",
}


def metadata_of(model: DetectionModel, settings: ExportSettings, fmt: Format) -> dict[str, Any]:
    """Return what is written into a file of one format: plain values for JSON."""
    head = model.detect
    inherited = {key: model.metadata[key] for key in _INHERITED if key in model.metadata}
    anchors = [(head.anchors[level].float() * stride).tolist() for level, stride in enumerate(head.strides)]
    about = {
        "format": fmt.name,
        "precision": fmt.precision,
        "input": fmt.input,
        "output": fmt.output,
        "variant": model.variant,
        "release": model.release,
        "names": list(model.names),
        "stride": list(head.strides),
        "anchors": anchors,
        "image_size": settings.image_size,
        "batch_size": settings.batch_size,
        "dynamic": settings.dynamic,
        "preprocessing": {
            "letterbox": settings.image_size,
            "colour_order": "BGR" if fmt.input == "image" else "RGB",
            "fill": GREY,
            "scale": "inside the file" if fmt.input == "image" else "1/255",
        },
        "decode": _DECODE[fmt.input, fmt.output],
        "model_digest": settings.model_digest or _UNSTATED,
        "dataset_digest": _UNSTATED,
        "code_digest": settings.code_digest or _UNSTATED,
        "licence": settings.licence or _UNSTATED,
        "made_by": _made_by(),
        **inherited,
    }
    if settings.dataset_digest:
        about["dataset_digest"] = settings.dataset_digest
    if fmt.output == "detections":
        about["nms"] = asdict(settings.nms)
    return about


def read_metadata(text: str | bytes | None, path: Path) -> dict[str, Any]:
    """Parse the metadata that was found in a file.

    Raises:
        CheckpointError: there is none, or it is not what `metadata_of` made.
    """
    if not text:
        raise CheckpointError(f"{path} was not exported by this project: it has no {METADATA_KEY!r} metadata")
    try:
        found: dict[str, Any] = json.loads(text)
        whole = all(found[key] for key in _REQUIRED)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is broken: its metadata is incomplete; export it again")
    return found


def _made_by() -> str:
    try:
        return f"{DISTRIBUTION} {version(DISTRIBUTION)}"
    except PackageNotFoundError:  # run from its folder, not installed
        return DISTRIBUTION
