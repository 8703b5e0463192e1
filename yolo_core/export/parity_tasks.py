"""What the export stage lets processes of their own do; see `yolo_core.export.isolation`.

Requests and answers are what JSON can hold; the rest they name: the checkpoint, the dataset that holds
calibration images, and the evidence folder with what to compare with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_core.data.coco import open_dataset
from yolo_core.data.images import Pixels
from yolo_core.engine.inference import stride_of
from yolo_core.export.backend import Backend, DetectingBackend
from yolo_core.export.backends import export, get_format, load_exported
from yolo_core.export.base import ExportSettings, prepare
from yolo_core.export.calibration import choose_images
from yolo_core.export.files import digest_of, size_of
from yolo_core.export.limits import Enough, Limits
from yolo_core.export.parity import latency_ms, to_input
from yolo_core.export.parity_evidence import Evidence, check
from yolo_core.export.parity_verdict import Accuracy, decide
from yolo_core.metrics.bootstrap import BootstrapSettings
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.weights import load_checkpoint

PYTORCH = "pytorch"
_FEWEST_RUNS = 3


def export_and_check(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write one format, open it again, and compare it with PyTorch.

    Args:
        request: format, weights, variant, settings (see `settings_of`), folder to write to, evidence folder,
            limits (by precision; image: of formats that take pictures), enough, draws.

    Returns:
        What the report says of it: file, megabytes, sha256, export_seconds, verdict, reasons, and its parity
        and accuracy where it can run here.
    """
    fmt = get_format(request["format"])
    model = load_checkpoint(Path(request["weights"]), variant=request["variant"])
    began = time.perf_counter()
    path = export(fmt.name, model, Path(request["folder"]), settings_of(request["settings"]))
    row: dict[str, Any] = {
        "file": path.name,
        "megabytes": round(size_of(path) / 1e6, 3),
        "sha256": digest_of(path).removeprefix("sha256:"),
        "export_seconds": round(time.perf_counter() - began, 2),
        "precision": fmt.precision,
        "input": fmt.input,
        "output": fmt.output,
    }
    reason = fmt.cannot_run()
    if reason is not None:
        return {**row, "verdict": "INSUFFICIENT", "reasons": [f"it cannot run here: {reason}"]}
    backend = load_exported(path)
    # A letterbox in the graph rounds elsewhere than ours, so all that follows differs.
    kind = "image" if backend.input == "image" else backend.precision
    limits = Limits(**request["limits"][kind])
    parity, accuracy = check(
        Evidence(Path(request["evidence"])), backend, limits.tolerance, BootstrapSettings(**request["draws"])
    )
    verdict = decide(parity, accuracy, limits, Enough(**request["enough"]))
    return {
        **row,
        "precision": backend.precision,
        "verdict": verdict.kind,
        "reasons": list(verdict.reasons),
        **asdict(parity),
        **figures_of(accuracy),
    }


def settings_of(values: Mapping[str, Any]) -> ExportSettings:
    """Return the settings that a request holds.

    Args:
        values: fields of `ExportSettings`; calibration is None, or has the dataset's folder, how many images
            (count), and the split that precision is measured on (measured_on).
    """
    asked = values["calibration"]
    settings = ExportSettings(**{**values, "nms": NmsSettings(**values["nms"]), "calibration": None})
    if asked is None:
        return settings
    images = choose_images(
        open_dataset(Path(asked["dataset"])),
        settings.image_size,
        count=asked["count"],
        measured_on=asked["measured_on"],
    )
    return replace(settings, calibration=images)


def figures_of(accuracy: Accuracy | None) -> dict[str, Any]:
    """Return an accuracy as flat figures; none where there is none."""
    if accuracy is None:
        return {}
    figures: dict[str, Any] = {
        "ap": accuracy.ap,
        "ap50": accuracy.ap50,
        "pytorch_ap": accuracy.pytorch_ap,
        "pytorch_ap50": accuracy.pytorch_ap50,
        "ap_images": accuracy.images,
        "ap_objects": accuracy.objects,
    }
    for name, change in (("ap", accuracy.difference), ("ap50", accuracy.difference50)):
        figures |= {
            f"{name}_difference": change.value,
            f"{name}_difference_low": change.low,
            f"{name}_difference_high": change.high,
        }
    return figures


def measure_latency(request: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Time exports one after another in this process, which should be alone on the machine.

    Args:
        request: files (name -> path; `PYTORCH` -> the checkpoint), variant, image_size, image (an .npy of
            (H, W, 3) BGR uint8), runs (calls whose median counts), batch (N).

    Returns:
        By name, milliseconds: latency_ms of the model alone on one image, batch_latency_ms likewise per image
        of N at once, detect_ms from one picture to its detections. The first two are None for formats that
        take or give something else.
    """
    image, runs, batch = np.load(request["image"]), int(request["runs"]), int(request["batch"])
    found: dict[str, dict[str, float | None]] = {}
    for name, path in request["files"].items():
        backend = _pytorch(request, Path(path)) if name == PYTORCH else load_exported(Path(path))
        found[name] = {**_raw_latency(backend, image, runs, batch)}
        found[name]["detect_ms"] = round(latency_ms(partial(backend.detect, [image]), runs), 3)
    return found


def _raw_latency(backend: Backend, image: Pixels, runs: int, batch: int) -> dict[str, float | None]:
    """Time the model alone, on one image and on several."""
    if isinstance(backend, DetectingBackend):
        return {"latency_ms": None, "batch_latency_ms": None}
    one = to_input(image, backend.image_size)
    several, fewer = one.repeat(batch, 1, 1, 1), max(runs // batch, _FEWEST_RUNS)
    return {
        "latency_ms": round(latency_ms(partial(backend, one), runs), 3),
        "batch_latency_ms": round(latency_ms(partial(backend, several), fewer) / batch, 3),
    }


def _pytorch(request: Mapping[str, Any], weights: Path) -> Backend:
    """Return the fused model in PyTorch, in the memory layout that is fastest there, to be timed alike."""
    model = prepare(load_checkpoint(weights, variant=request["variant"]))

    def run(images: Tensor) -> Tensor:
        outputs: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return outputs

    about = {
        "format": PYTORCH,
        "names": model.names,
        "stride": [stride_of(model)],
        "image_size": request["image_size"],
        "batch_size": 1,
        "dynamic": True,
    }
    return Backend(run, about)
