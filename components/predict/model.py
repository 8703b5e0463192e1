"""Open a model to predict with: from the registry, or from a checkpoint file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import load_section
from components.runner import Options, load_params
from components.store import TrackingConfig
from yolo_core.data.images import Pixels
from yolo_core.errors import UsageError

REGISTRY = "models:/"
Detections = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """What to keep: least score, overlap limit (both 0..1) and most boxes per image."""

    confidence: float
    iou: float
    max_detections: int


def open_model(options: Namespace, thresholds: Thresholds) -> Callable[[Pixels], Detections]:
    """Return a function from an (H, W, 3) BGR image to its detections.

    They are what `yolo_core.engine.detections.describe` makes of them, for either kind of model.

    Raises:
        UsageError: no such model, a checkpoint that cannot be read, or an option that is for checkpoints.
        UnreachableError: MLflow does not answer.
    """
    if options.model.startswith(REGISTRY):
        if options.image_size is not None:
            raise UsageError("--image-size is for checkpoints; a registered model has its own size")
        if options.augment:
            raise UsageError("--augment is for checkpoints; a registered model may take one shape only")
        return _registered(options, thresholds)
    return _checkpoint(options, thresholds)


def _registered(options: Namespace, thresholds: Thresholds) -> Callable[[Pixels], Detections]:
    from components.store import connect, load_pyfunc

    params = load_params(Options.of(options))
    connect(load_section(params, "tracking", TrackingConfig), Path(options.workspace).resolve(), create=False)
    model = load_pyfunc(options.model)
    chosen = {"conf": thresholds.confidence, "iou": thresholds.iou, "max_det": thresholds.max_detections}

    def run(image: Pixels) -> Detections:
        found: Detections = model.predict([image], params=chosen)[0]
        return found

    return run


def _checkpoint(options: Namespace, thresholds: Thresholds) -> Callable[[Pixels], Detections]:
    from yolo_core.engine.detections import describe
    from yolo_core.engine.evaluate import EvalSettings, detect
    from yolo_core.metrics.nms import NmsSettings
    from yolo_core.model.variants import get_variant
    from yolo_core.model.weights import load_checkpoint

    path = Path(options.model)
    if not path.is_file():
        raise UsageError(
            f"no checkpoint at {path}; name a file, or a registered model as models:/NAME@champion"
        )
    model = load_checkpoint(path)
    size = options.image_size or int(
        model.metadata.get("image_size") or get_variant(model.variant).train_size
    )
    nms = NmsSettings(
        confidence=thresholds.confidence, iou=thresholds.iou, max_detections=thresholds.max_detections
    )
    settings = EvalSettings(image_size=size, nms=nms, augment=options.augment)
    model.fuse()

    def run(image: Pixels) -> Detections:
        return describe(detect(model, [image], settings)[0], model.names)

    return run
