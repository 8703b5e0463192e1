"""TorchScript: the traced model, for C++ and for Python without this package."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from yolo_core.export.base import METADATA_KEY, Backend, ExportSettings, Format, read_metadata
from yolo_core.model.graph import DetectionModel


class TorchScript(Format):
    """A zip that ``torch.jit.load`` opens; metadata in its extra file ``yolo``."""

    name: ClassVar[str] = "torchscript"
    filename: ClassVar[str] = "model.torchscript"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Trace the model with an example of the fixed input."""
        example = torch.zeros(settings.batch_size, 3, settings.image_size, settings.image_size)
        with warnings.catch_warnings(), torch.no_grad():
            # Tracing warns that shapes become constants, which a fixed input makes true, and of its age.
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, example, check_trace=False)
            torch.jit.save(traced, str(target), _extra_files={METADATA_KEY: json.dumps(metadata)})

    def load(self, path: Path) -> Backend:
        """Open a traced model on the CPU."""
        files = {METADATA_KEY: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=files).eval()
        return Backend(module, read_metadata(files[METADATA_KEY], path))
