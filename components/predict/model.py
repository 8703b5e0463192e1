"""Open a model to predict with: from the registry, or a checkpoint or an export on this machine."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.config import load_section
from components.registry import REGISTRY
from components.runner import Options, load_params
from components.store import TrackingConfig, connect, load_pyfunc, refusals
from yolo_core.data.images import Pixels
from yolo_core.detector import BEST, CHECKPOINT, Detector, request_of
from yolo_core.errors import UsageError

Detections = list[dict[str, Any]]
_CHECKPOINTS = (".pt", ".safetensors")
_EXPORT = "export"
_LARGEST = 2**15  # pixels; on one's own machine the memory is the limit


def open_model(options: Namespace) -> Callable[[Pixels], Detections]:
    """Return a function from an (H, W, 3) BGR image to its detections.

    They are what `yolo_core.engine.detections.describe` makes of them, for either kind of model: a registered
    one computes with the same `Detector`.

    Raises:
        UsageError: no such model, a file that cannot be read, or an option that the model does not take.
        UnreachableError: MLflow does not answer.
    """
    if options.model.startswith(REGISTRY):
        if options.augment:
            raise UsageError("--augment is for checkpoints; a registered model may take one shape only")
        return _registered(options)
    return _local(options)


def _registered(options: Namespace) -> Callable[[Pixels], Detections]:
    params = load_params(Options.of(options))
    connect(load_section(params, "tracking", TrackingConfig), Path(options.workspace).resolve(), create=False)
    model = load_pyfunc(options.model)
    chosen = _params(options)

    def run(image: Pixels) -> Detections:
        with refusals():
            found: Detections = model.predict([image], params=chosen)[0]
        return found

    return run


def _local(options: Namespace) -> Callable[[Pixels], Detections]:
    path = Path(options.model)
    if not path.exists():
        raise UsageError(
            f"no model at {path}; name a checkpoint, an export, or a registered model as "
            "models:/NAME@champion"
        )
    if options.backend is not None:
        raise UsageError("--backend is for registered models; a checkpoint or an export is one itself")
    name = CHECKPOINT if path.suffix in _CHECKPOINTS else _EXPORT
    detector = Detector({name: path}, [name])
    request = replace(request_of({**_params(options), "backend": name}, _LARGEST), augment=options.augment)
    detector.runner(request)  # says now what is wrong, before any image is worked on

    def run(image: Pixels) -> Detections:
        return detector([image], request)[0]

    return run


def _params(options: Namespace) -> dict[str, Any]:
    return {
        "conf": options.confidence,
        "iou": options.iou,
        "max_det": options.max_detections,
        "size": options.image_size or 0,
        "backend": options.backend or BEST,
    }
