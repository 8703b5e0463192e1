"""TensorFlow: its import, and its SavedModel, a folder that TensorFlow Serving and many converters read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, Format, broken, toolkit
from yolo_core.export.keras_graph import INPUT, OUTPUT, build, channels_last, to_channels_last
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.export.quiet import silent
from yolo_core.model.graph import DetectionModel

_SIGNATURE = "serving_default"
_METADATA_FILE = f"assets/{METADATA_KEY}.json"


class BuiltInKeras(Format):
    """A format whose model is built in Keras first."""

    packages: ClassVar[tuple[str, ...]] = ("tensorflow", "keras")

    def check_toolkit(self) -> None:
        """Raise `UsageError` naming the extra if TensorFlow or Keras is missing."""
        import_keras(self.name)


class SavedModel(BuiltInKeras):
    """A folder with saved_model.pb and its variables; metadata in its assets, ``yolo.json``.

    Its signature ``serving_default`` maps ``images`` (B, S, S, 3) to ``predictions``
    (B, N, 5 + nc).
    """

    name: ClassVar[str] = "saved_model"
    filename: ClassVar[str] = "saved_model"
    suffix: ClassVar[str] = ".pb"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Build the model in Keras and save its function with the input fixed."""
        write_saved_model(model, target, settings, self.name)
        content = json.dumps(channels_last(metadata))
        (target / _METADATA_FILE).write_text(content, encoding="utf-8")

    def load(self, path: Path) -> Backend:
        """Open the folder, or the .pb file in it, on the CPU."""
        tensorflow = import_tensorflow(self.name)
        folder = path if path.is_dir() else path.parent
        about = folder / _METADATA_FILE
        refusals = (OSError, ValueError, RuntimeError, LookupError, tensorflow.errors.OpError)
        try:
            with silent():
                loaded = tensorflow.saved_model.load(str(folder))
            function = loaded.signatures[_SIGNATURE]
        except refusals as error:
            raise broken(path, error) from None
        metadata = read_metadata(about.read_bytes() if about.is_file() else None, path)

        def run(images: Tensor) -> Tensor:
            batch = tensorflow.constant(to_channels_last(images))
            return torch.from_numpy(function(**{INPUT: batch})[OUTPUT].numpy())

        return Backend(run, metadata)


def write_saved_model(model: DetectionModel, target: Path, settings: ExportSettings, fmt: str) -> None:
    """Write the folder of a SavedModel without metadata, for the format of that name.

    Raises:
        OSError: it cannot be written.
    """
    keras = import_keras(fmt)
    tensorflow = import_tensorflow(fmt)
    side = settings.image_size
    signature = tensorflow.TensorSpec((settings.batch_size, side, side, 3), tensorflow.float32, name=INPUT)
    try:
        with silent():
            built = build(keras, model, settings)

            def serve(images: Any) -> dict[str, Any]:
                return {OUTPUT: built(images, training=False)}

            # Bare of all but TensorFlow's own variables: what Keras exports itself holds each of them twice.
            module = tensorflow.Module()
            module.kept = [variable.value for variable in built.variables]
            module.serve = tensorflow.function(serve, input_signature=[signature])
            tensorflow.saved_model.save(module, str(target), signatures={_SIGNATURE: module.serve})
    except tensorflow.errors.OpError as error:
        # It says: {{node}} path; reason [operation].
        raise OSError(str(error.message).rpartition("; ")[2].partition(" [")[0][:160]) from error
    finally:
        keras.utils.clear_session()


def import_tensorflow(fmt: str) -> ModuleType:
    """Import TensorFlow, quietly, for the CPU, with as many threads as torch uses.

    Its libraries clash with those of Triton, which torch loads late, and only if these come second: then the
    process crashes. So Triton goes first.

    Raises:
        UsageError: it is not installed.
    """
    if "tensorflow" not in sys.modules:
        with suppress(ImportError):
            import_module("triton")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent():
        tensorflow = toolkit("tensorflow", fmt)
        with suppress(RuntimeError):  # it is at work already, and they are fixed
            tensorflow.config.set_visible_devices([], "GPU")
            tensorflow.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
            tensorflow.config.threading.set_inter_op_parallelism_threads(torch.get_num_threads())
    return tensorflow


def import_keras(fmt: str) -> ModuleType:
    """Import Keras on TensorFlow, its own default.

    Raises:
        UsageError: one of the two is not installed, or Keras was told to use something else.
    """
    import_tensorflow(fmt)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with silent():
        keras = toolkit("keras", fmt)
    used = keras.backend.backend()
    if used != "tensorflow":
        raise UsageError(f"format {fmt} needs Keras on TensorFlow, not on {used}; unset KERAS_BACKEND")
    return keras
