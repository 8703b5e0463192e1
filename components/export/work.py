"""Export one variant in every asked format, and let none pass that does not equal PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from components.export.config import ExportConfig
from components.job import Job
from yolo_core.data.coco import DetectionDataset, open_dataset, read_image
from yolo_core.errors import GateError, UsageError
from yolo_core.export.backends import export, load_exported
from yolo_core.export.base import ExportSettings
from yolo_core.export.parity import Parity, compare, latency_ms, to_input
from yolo_core.model.graph import DetectionModel
from yolo_core.model.weights import load_checkpoint

REPORT = "parity.json"


def run(config: ExportConfig, job: Job) -> dict[str, Any]:
    """Write exports/V/ and reports/export/V.json.

    Raises:
        UsageError: weights missing, toolkit missing, or a size that does not fit the stride.
        GateError: a format differs too much from PyTorch; the reports are written before.
    """
    weights = job.path("models/{variant}") / "best.safetensors"
    if not weights.is_file():
        raise UsageError(f"no weights at {weights}; run `python -m components train --variant {job.variant}`")
    model = load_checkpoint(weights).fuse()
    settings = ExportSettings(
        image_size=config.image_size or int(model.metadata["image_size"]),
        batch_size=config.batch_size,
        opset=config.opset,
    )
    dataset = open_dataset(job.path("data/dataset"))
    images = pick_images(dataset, config, settings.image_size)
    folder = job.path("exports/{variant}")
    rows = {
        name: check(name, model, folder, settings, images, config)
        for name in tqdm(config.formats, desc=f"export {job.variant}", unit="format", leave=False)
    }
    report = {
        "variant": model.variant,
        "image_size": settings.image_size,
        "dataset_digest": dataset.digest,
        "pytorch_latency_ms": latency_ms(model, images[0]),
        "formats": rows,
    }
    _write(report, job)
    failed = [name for name, row in rows.items() if not row["passed"]]
    if failed:
        reasons = "; ".join(f"{name}: {', '.join(rows[name]['reasons'])}" for name in failed)
        raise GateError(f"export differs from PyTorch: {reasons}; see {folder / REPORT}")
    return report


def pick_images(dataset: DetectionDataset, config: ExportConfig, size: int) -> list[Tensor]:
    """Return images of the parity split, evenly spread, as model inputs (1, 3, size, size)."""
    samples = dataset.samples(config.parity_split)
    count = min(config.parity_images, len(samples))
    chosen = np.linspace(0, len(samples) - 1, count).round().astype(int)
    return [to_input(read_image(samples[index].path), size) for index in chosen]


def check(
    name: str,
    model: DetectionModel,
    folder: Path,
    settings: ExportSettings,
    images: Sequence[Tensor],
    config: ExportConfig,
) -> dict[str, Any]:
    """Export one format, run it again from its file, and compare it with the model."""
    path = export(name, model, folder, settings)
    backend = load_exported(path)
    parity = compare(model, backend, images)
    reasons = judge(parity, config)
    batch = torch.cat([images[0]] * settings.batch_size)
    return {
        "passed": not reasons,
        "reasons": reasons,
        "file": path.name,
        "megabytes": round(size_of(path) / 1e6, 3),
        "latency_ms": round(latency_ms(backend, batch) / settings.batch_size, 3),
        **asdict(parity),
    }


def judge(parity: Parity, config: ExportConfig) -> list[str]:
    """Return what is wrong with a parity, in words with figures; nothing when it passes."""
    checks = (
        (parity.max_box_error <= config.max_box_error, f"a box is {parity.max_box_error:.4g} px off"),
        (parity.max_score_error <= config.max_score_error, f"a score is {parity.max_score_error:.4g} off"),
        (parity.matched >= config.min_matched, f"only {parity.matched:.1%} of detections match"),
    )
    return [reason for passed, reason in checks if not passed]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _write(report: dict[str, Any], job: Job) -> None:
    full = job.path("exports/{variant}") / REPORT
    full.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    flat = {
        name: {key: value for key, value in row.items() if key not in ("reasons", "file")}
        for name, row in report["formats"].items()
    }
    path = job.path("reports/export/{variant}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(flat, indent=2) + "\n", encoding="utf-8")
    job.tracker.log_artifact(full)
    job.tracker.log_metrics(
        {
            f"{name}_{key}": float(value)
            for name, row in flat.items()
            for key, value in row.items()
            if isinstance(value, (bool, int, float))
        }
    )
