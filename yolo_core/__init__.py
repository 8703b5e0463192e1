"""YOLOv5 v6.0 detectors: model, data, loss, metrics, training engine and export.

The names below are the stable interface. They are loaded on first use, so that importing
``yolo_core.errors`` for a command line's help does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_core.engine.evaluate import evaluate
    from yolo_core.model.graph import create_model
    from yolo_core.model.variants import VARIANTS
    from yolo_core.model.weights import load_checkpoint, save_checkpoint

__all__ = ["VARIANTS", "create_model", "evaluate", "load_checkpoint", "save_checkpoint"]

_HOME = {
    "VARIANTS": "yolo_core.model.variants",
    "create_model": "yolo_core.model.graph",
    "evaluate": "yolo_core.engine.evaluate",
    "load_checkpoint": "yolo_core.model.weights",
    "save_checkpoint": "yolo_core.model.weights",
}


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
