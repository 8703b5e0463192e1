"""The registered model: images in, detections out. MLflow copies this file and `yolo_core` into the model.

It is code that MLflow runs when the model is loaded, so it may import only what travels with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

from yolo_core.data.images import Pixels, decode_image, read_image
from yolo_core.engine.detections import describe
from yolo_core.engine.evaluate import EvalSettings, detect
from yolo_core.errors import DataError
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.weights import load_checkpoint

_LONGEST_PATH = 4096
_DEFAULTS = {"conf": 0.25, "iou": 0.45, "max_det": 300}


class Detector(PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """A YOLOv5 detector behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint, or the export that the model's configuration names."""
        settings = context.model_config or {}
        model = load_checkpoint(context.artifacts["checkpoint"])
        self.names: tuple[str, ...] = tuple(model.names)
        self.image_size = int(settings.get("image_size", 640))
        fmt = settings.get("format", "checkpoint")
        # An export has one fixed input shape; the checkpoint takes the smallest that fits the images.
        self.rectangular = fmt == "checkpoint"
        self.model: Callable[..., Any]
        if self.rectangular:
            self.model = model.fuse()
        else:
            from yolo_core.export.backends import load

            backend = load(fmt, Path(context.artifacts["exports"]))
            self.model, self.image_size = backend, int(backend.metadata["image_size"])

    def predict(
        self, context: PythonModelContext, model_input: list[Any], params: dict[str, Any] | None = None
    ) -> list[list[dict[str, Any]]]:
        """Detect objects.

        Args:
            context: MLflow's; not used.
            model_input: images, each as JPEG or PNG bytes, the same in base64, a file's path, or an
                (H, W, 3) BGR or (H, W) grey uint8 array.
            params: ``conf``, the least score; ``iou``, the overlap above which the weaker of two boxes goes;
                ``max_det``, the most boxes per image.

        Returns:
            Per image what `yolo_core.engine.detections.describe` makes of its detections: dictionaries with
            xyxy, score, class and name.

        Raises:
            DataError: an image does not decode; the message says which.
        """
        images = [to_pixels(item, index) for index, item in enumerate(model_input)]
        if not images:
            return []
        chosen = {**_DEFAULTS, **(params or {})}
        nms = NmsSettings(
            confidence=float(chosen["conf"]), iou=float(chosen["iou"]), max_detections=int(chosen["max_det"])
        )
        settings = EvalSettings(image_size=self.image_size, rectangular=self.rectangular, nms=nms)
        return [describe(rows, self.names) for rows in detect(self.model, images, settings)]


def to_pixels(item: Any, index: int) -> Pixels:
    """Turn one item of the input into (H, W, 3) BGR uint8; ``index`` names it in errors."""
    name = f"image {index}"
    if isinstance(item, (bytes, bytearray, memoryview)):
        return decode_image(bytes(item), name)
    if isinstance(item, np.ndarray):
        return _from_array(item, name)
    if isinstance(item, Path):
        return read_image(item)
    if isinstance(item, str):
        if len(item) < _LONGEST_PATH and Path(item).is_file():
            return read_image(Path(item))
        try:
            return decode_image(base64.b64decode(item.rpartition("base64,")[2], validate=True), name)
        except binascii.Error:
            shown = item if len(item) < 80 else f"{item[:77]}..."
            raise DataError(f"{name} is neither a file nor base64: {shown}") from None
    raise DataError(f"{name} is a {type(item).__name__}; give bytes, base64, a path or a uint8 array")


def _from_array(array: np.ndarray[Any, Any], name: str) -> Pixels:
    if array.dtype != np.uint8 or array.size == 0:
        raise DataError(
            f"{name}: an array must be uint8 and not empty, not {array.dtype} of shape {array.shape}"
        )
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise DataError(f"{name}: an array must be (H, W, 3) BGR or (H, W) grey, not of shape {array.shape}")
    pixels: Pixels = np.ascontiguousarray(array)
    return pixels


mlflow.models.set_model(Detector())
