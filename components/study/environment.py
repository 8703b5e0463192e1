"""On what a time was measured: processor, threads, and the versions of what computes."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless")
_RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino"}  # of exported formats; TorchScript is torch's


def describe_environment(device: str, fmt: str = "checkpoint") -> dict[str, Any]:
    """Say on what times are measured; two equal answers make times comparable, other load apart.

    Args:
        device: cpu or cuda.
        fmt: format of the model: the library that runs it is named too.
    """
    environment: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
    }
    for library in (*_LIBRARIES, *([_RUNTIMES[fmt]] if fmt in _RUNTIMES else [])):
        environment[library.split("-")[0]] = _version(library)
    if device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name()
        environment["cuda"] = str(torch.version.cuda)
    return environment


def cpu_name() -> str:
    """Return the processor's name: Linux keeps it where `platform` does not look."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
