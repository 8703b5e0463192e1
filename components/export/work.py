"""The export stage: one variant in every asked format, and none passes that does not equal PyTorch."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from components.export.config import ExportConfig
from components.export.images import pick_images
from components.export.report import write_report
from components.job import Job
from yolo_core.data.coco import DetectionDataset, Sample, open_dataset
from yolo_core.engine.inference import usable_size
from yolo_core.errors import GateError, UsageError
from yolo_core.export.backends import export, get_format, load_exported
from yolo_core.export.base import ExportSettings, prepare
from yolo_core.export.files import digest_of, size_of
from yolo_core.export.parity import Limits, compare, latency_ms, to_input
from yolo_core.model.graph import DetectionModel
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import load_checkpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is exported, and what it is compared on."""

    model: DetectionModel
    settings: ExportSettings
    dataset: DetectionDataset
    samples: tuple[Sample, ...]

    def batches(self) -> Iterator[Tensor]:
        """Yield the images as the exports take them, (B, 3, S, S) in 0..1."""
        size, step = self.settings.image_size, self.settings.batch_size
        for start in range(0, len(self.samples), step):
            group = self.samples[start : start + step]
            yield torch.cat([to_input(sample.read_image(), size) for sample in group])

    def example(self) -> Tensor:
        """Return one whole batch, of the first image, to time."""
        first = next(self.batches())[:1]
        return first.repeat(self.settings.batch_size, 1, 1, 1)


def run(config: ExportConfig, job: Job) -> dict[str, Any]:
    """Write ``exports/V/`` with the parity report and ``reports/export/V.json``, and log both.

    Raises:
        UsageError: no variant was named, its weights or a format's toolkit are missing, or the weights know
            other classes than the dataset.
        DataError: the dataset is broken.
        GateError: a format differs too much from PyTorch; the reports are written before.
    """
    for name in config.formats:
        get_format(name).check_toolkit()
    subject = _prepare(config, job)
    dataset = subject.dataset
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "parity")
    folder = job.path("exports/{variant}")
    rows = _export(config, subject, folder)
    _measure(config, subject, folder, rows)
    report = {
        "variant": subject.model.variant,
        **asdict(subject.settings),
        "dataset_digest": dataset.digest,
        "images": [sample.path.name for sample in subject.samples],
        "limits": asdict(_limits(config)),
        "threads": torch.get_num_threads(),
        "pytorch_latency_ms": _pytorch_latency(config, subject),
        "formats": rows,
    }
    written = write_report(report, job)
    failed = {name: row["reasons"] for name, row in rows.items() if row["verdict"] != "PASS"}
    if failed:
        reasons = "; ".join(f"{name}: {', '.join(why)}" for name, why in failed.items())
        raise GateError(f"{job.variant} differs from PyTorch once exported: {reasons}\nsee {written}")
    shown = ("megabytes", "latency_ms", "max_box_error", "matched")
    return {
        "report": str(written),
        "pytorch_latency_ms": report["pytorch_latency_ms"],
        **{name: {key: row[key] for key in shown} for name, row in rows.items()},
    }


def _prepare(config: ExportConfig, job: Job) -> Subject:
    """Open dataset and weights, and find what does not fit before anything is written."""
    if job.variant is None:
        raise UsageError("export needs a model variant; pass --variant yolov5n")
    weights = job.path("models/{variant}") / "best.safetensors"
    if not weights.is_file():
        raise UsageError(f"no weights at {weights}; run `python -m components train --variant {job.variant}`")
    model = load_checkpoint(weights, variant=job.variant)
    dataset = open_dataset(job.path("data/dataset"))
    if model.names != dataset.names:
        raise UsageError(f"{weights} knows other classes than {dataset.root}; train on this dataset first")
    trained = int(model.metadata.get("image_size") or get_variant(model.variant).train_size)
    settings = ExportSettings(
        image_size=usable_size(model, config.image_size or trained),
        batch_size=config.batch_size,
        opset=config.opset,
        model_digest=digest_of(weights),
        licence=config.licence or "",
    )
    samples = pick_images(dataset, config.parity_split, config.parity_images)
    return Subject(model=model, settings=settings, dataset=dataset, samples=samples)


def _export(config: ExportConfig, subject: Subject, folder: Path) -> dict[str, dict[str, Any]]:
    """Write every format; per format its file, size, content digest and the seconds it took."""
    rows: dict[str, dict[str, Any]] = {}
    # disable=None: no bar where stderr is a log
    for name in tqdm(
        config.formats, desc=f"export {subject.model.variant}", unit="format", leave=False, disable=None
    ):
        began = time.perf_counter()
        path = export(name, subject.model, folder, subject.settings)
        rows[name] = {
            "file": path.name,
            "megabytes": round(size_of(path) / 1e6, 3),
            "sha256": digest_of(path).removeprefix("sha256:"),
            "seconds": round(time.perf_counter() - began, 2),
        }
    return rows


def _measure(
    config: ExportConfig, subject: Subject, folder: Path, rows: Mapping[str, dict[str, Any]]
) -> None:
    """Run every file and compare it with the model as trained; adds figures and verdicts to the rows."""
    backends = {name: load_exported(folder / row["file"]) for name, row in rows.items()}
    parities = compare(subject.model.eval(), backends, subject.batches())
    example = subject.example()
    for name, row in rows.items():
        reasons = _limits(config).judge(parities[name])
        latency = latency_ms(backends[name], example, config.latency_runs) / subject.settings.batch_size
        row |= {
            "verdict": "FAIL" if reasons else "PASS",
            "reasons": reasons,
            "latency_ms": round(latency, 3),
            **asdict(parities[name]),
        }
        if not parities[name].detections:
            _log.warning("%s: nothing is detected on these images; only raw outputs are compared", name)
        _log.info("%s: %s, %.2f ms per image", name, row["verdict"], latency)


def _pytorch_latency(config: ExportConfig, subject: Subject) -> float:
    """Milliseconds per image of the fused model in PyTorch, in the memory layout that is fastest there."""
    example = subject.example().contiguous(memory_format=torch.channels_last)
    latency = latency_ms(prepare(subject.model), example, config.latency_runs)
    return round(latency / subject.settings.batch_size, 3)


def _limits(config: ExportConfig) -> Limits:
    return Limits(
        max_box_error=config.max_box_error,
        max_score_error=config.max_score_error,
        min_matched=config.min_matched,
    )
