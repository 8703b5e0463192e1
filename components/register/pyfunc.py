"""The registered model: images in, detections out. MLflow copies this file and `yolo_core` into the model.

It is code that MLflow runs when the model is loaded, so it may import only what travels with it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from yolo_core.data.inputs import InputRules, to_pixels
from yolo_core.detector import BEST, CHECKPOINT, Detector, Request, request_of
from yolo_core.errors import CheckpointError, DataError, UsageError
from yolo_core.export.backends import FORMATS

# It is meant: items of many kinds are taken, and `to_pixels` checks them.
warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")


class RequestError(MlflowException):  # type: ignore[misc]  # mlflow ships no types
    """The caller's fault, which MLflow's server answers with HTTP 400 and this message.

    The server puts the whole request, megabytes of base64, in front of the message of what it catches; this
    message stays as it is.
    """

    def __init__(self, message: str) -> None:
        """Take the message for the caller."""
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """What the caller is told."""
        return str(self.args[0])

    @message.setter
    def message(self, text: str) -> None:
        """Keep the message as it is."""


class RegisteredDetector(PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """A YOLOv5 detector behind MLflow's pyfunc interface.

    Its configuration, which ``load_model(..., model_config={...})`` overrides: ``format``, the backend that
    "best" stands for, or "best" itself; ``order``, the backends that are tried; ``image_size``, the
    checkpoint's; ``allow_paths``, whether a text may be a file's path; ``max_pixels`` of a picture;
    ``max_size``, the largest ``size``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Find the checkpoint and the exports, and load what will be used unless a request says otherwise."""
        self.settings = dict(context.model_config or {})
        exports = Path(context.artifacts["exports"])
        places = {CHECKPOINT: Path(context.artifacts["checkpoint"])}
        for name, form in FORMATS.items():
            if (exports / form.filename).exists():
                places[name] = exports / form.filename
        chosen = str(self.settings["format"])
        order = self.settings["order"] if chosen == BEST else [chosen]
        self.rules = InputRules(
            allow_paths=bool(self.settings["allow_paths"]), max_pixels=int(self.settings["max_pixels"])
        )
        self.detector = Detector(places, order, int(self.settings["image_size"]))
        self.detector.runner(Request())

    def predict(
        self, context: PythonModelContext, model_input: list[Any], params: dict[str, Any] | None = None
    ) -> list[list[dict[str, Any]]]:
        """Detect objects.

        Args:
            context: MLflow's; not used.
            model_input: pictures in any form that `yolo_core.data.inputs.to_pixels` takes; over HTTP that is
                base64.
            params: as `yolo_core.detector.request_of` takes them: conf, iou, max_det, size, backend.

        Returns:
            Per picture what `yolo_core.engine.detections.describe` makes of its detections: dictionaries with
            xyxy in pixels of the picture, score, class and name.

        Raises:
            RequestError: a picture or a param is wrong; the message says which, and why.
        """
        try:
            request = request_of(params or {}, int(self.settings["max_size"]))
            if not model_input:
                raise DataError("there is no image: inputs must be a list with one at least")
            pictures = (
                to_pixels(item, f"image {index}", self.rules) for index, item in enumerate(model_input)
            )
            return self.detector(pictures, request)
        except CheckpointError as error:  # not the caller's fault
            raise MlflowException(str(error)) from None
        except (DataError, UsageError) as error:
            raise RequestError(str(error)) from None


mlflow.models.set_model(RegisteredDetector())
