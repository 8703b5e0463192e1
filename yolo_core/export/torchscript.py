"""TorchScript: the traced model, for C++ and for Python without this package."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from yolo_core.export.backend import Backend
from yolo_core.export.base import DYNAMIC, ExportSettings, Format, broken
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.model.graph import DetectionModel


class TorchScript(Format):
    """A zip that ``torch.jit.load`` opens; metadata in its extra file ``yolo``."""

    name: ClassVar[str] = "torchscript"
    filename: ClassVar[str] = "model.torchscript"
    suffix: ClassVar[str] = ".torchscript"
    packages: ClassVar[tuple[str, ...]] = ()
    supports: ClassVar[frozenset[str]] = frozenset({DYNAMIC})

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Trace the model with an example, and fold its constants; shapes are none of them."""
        # Through memory: torch names the zip's root after the file, and a full disk is then an OSError.
        content = io.BytesIO()
        frozen = trace(model, settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age
            torch.jit.save(frozen, content, _extra_files={METADATA_KEY: json.dumps(metadata)})
        target.write_bytes(content.getbuffer())

    def load(self, path: Path) -> Backend:
        """Open a traced model on the CPU."""
        files = {METADATA_KEY: ""}
        open_file: Callable[..., Any] = torch.jit.load
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its age
                module = open_file(str(path), map_location="cpu", _extra_files=files)
        except (RuntimeError, ValueError) as error:
            raise broken(path, error) from None
        return Backend(module, read_metadata(files[METADATA_KEY], path))


def trace(model: DetectionModel, settings: ExportSettings) -> torch.jit.ScriptModule:
    """Trace a model that `prepare` made, and freeze its weights into the graph.

    The head makes its grids from the shape of what it gets, which the trace notes as such: batch and size of
    the example stay open.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns that Python sees shapes as constants, which only loops over levels do, and of its age.
        warnings.simplefilter("ignore")
        tracer: Callable[..., Any] = torch.jit.trace
        traced = tracer(model, torch.zeros(settings.shape), check_trace=False)
        frozen: torch.jit.ScriptModule = torch.jit.freeze(traced)
    return frozen
