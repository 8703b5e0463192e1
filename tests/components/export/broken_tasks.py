"""The stage's work with toolkits that fail, for processes that the tests let the stage start."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from yolo_core.export import parity_tasks
from yolo_core.export.backends import FORMATS
from yolo_core.export.base import ExportSettings
from yolo_core.export.onnx import Onnx
from yolo_core.export.torchscript import TorchScript
from yolo_core.model.graph import DetectionModel


class Faulty(TorchScript):
    """Writes a file that runs, but whose weights were damaged on the way: each by a hundredth."""

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        damaged = copy.deepcopy(model)
        with torch.no_grad():
            for weight in damaged.parameters():
                weight.mul_(1 + 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        super().write(damaged, target, settings, metadata)


class Crashing(Onnx):
    """Dies of a segmentation fault when half of the file is written."""

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        target.write_bytes(b"half of it")
        sys.stderr.write("converter: bad pointer\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)


def export_and_check(request: dict[str, Any]) -> dict[str, Any]:
    """Do as the real one does, with those two."""
    FORMATS["torchscript"], FORMATS["onnx"] = Faulty(), Crashing()
    return parity_tasks.export_and_check(request)


def measure_latency(request: dict[str, Any]) -> dict[str, Any]:
    """Do as the real one does, but for OpenVINO, which kills the process; so the others need another try."""
    if "openvino" in request["files"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return parity_tasks.measure_latency(request)
