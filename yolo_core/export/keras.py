"""Keras: one .keras file of standard layers, which `keras.saving.load_model` opens in its safe mode."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.export.backend import Backend
from yolo_core.export.base import ExportSettings, broken
from yolo_core.export.keras_graph import build, channels_last, to_channels_last
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.export.quiet import silent
from yolo_core.export.tensorflow import BuiltInKeras, import_keras, import_tensorflow
from yolo_core.model.graph import DetectionModel

_METADATA_FILE = f"{METADATA_KEY}.json"


class Keras(BuiltInKeras):
    """A zip with configuration and weights; metadata in a further file of it, ``yolo.json``."""

    name: ClassVar[str] = "keras"
    filename: ClassVar[str] = "model.keras"
    suffix: ClassVar[str] = ".keras"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Build the model in Keras and save it."""
        keras = import_keras(self.name)
        try:
            with silent():
                build(keras, model, settings).save(target)
        finally:
            keras.utils.clear_session()
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr(_METADATA_FILE, json.dumps(channels_last(metadata)))

    def load(self, path: Path) -> Backend:
        """Open the file; nothing in it is executed but Keras's own layers."""
        keras = import_keras(self.name)
        tensorflow = import_tensorflow(self.name)
        try:
            metadata = read_metadata(_read_metadata_file(path), path)
            with silent():
                model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, LookupError, zipfile.BadZipFile) as error:
            raise broken(path, error) from None
        function = tensorflow.function(model)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(function(to_channels_last(images), training=False).numpy())

        return Backend(run, metadata)


def _read_metadata_file(path: Path) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        return archive.read(_METADATA_FILE) if _METADATA_FILE in archive.namelist() else None
