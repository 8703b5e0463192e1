"""The study of one variant: accuracy and speed over image sizes."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from components.job import Job
from components.study.config import StudyConfig
from components.study.plots import plot_pr_curves
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate, stride_of
from yolo_core.errors import UsageError
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel
from yolo_core.model.profile import count_parameters, gflops
from yolo_core.model.weights import load_checkpoint

_LOG = logging.getLogger(__name__)


def run(config: StudyConfig, job: Job) -> dict[str, Any]:
    """Measure the variant's best weights at every size; write reports/study/V.json.

    Raises:
        UsageError: the weights are missing, or know other classes than the dataset.
        DataError: the split is absent or empty.
    """
    dataset = open_dataset(job.path("data/dataset"))
    weights = job.path("models/{variant}") / "best.safetensors"
    if not weights.is_file():
        raise UsageError(f"no weights at {weights}; run `python -m components train --variant {job.variant}`")
    model = load_checkpoint(weights)
    if model.names != dataset.names:
        raise UsageError(f"{weights} knows other classes than {dataset.root}; train on this dataset first")
    report = describe(model, weights, dataset, config)
    best = -1.0
    for size in sizes_for(config, stride_of(model)):
        result = measure(model, dataset, config, size)
        point = point_of(result, size)
        report["points"].append(point)
        job.tracker.log_metrics({k: v for k, v in point.items() if k != "image_size"}, step=size)
        if result.metrics.map > best:
            best, report["best"] = result.metrics.map, {k: point[k] for k in ("image_size", "map50", "map")}
            report["per_class"] = result.metrics.per_class(dataset.names)
            picture = job.path("reports/study/{variant}.json").with_name(f"{job.variant}-pr.png")
            plot_pr_curves(result.metrics, dataset.names, picture)
    job.tracker.log_artifact(picture)
    picture.unlink()  # it lives in MLflow: the folder holds nothing but reports
    return _write(report, job)


def describe(
    model: DetectionModel, weights: Path, dataset: DetectionDataset, config: StudyConfig
) -> dict[str, Any]:
    """Return the report's head: what is measured, on what, how and where."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {
        "variant": model.variant,
        "model_digest": f"sha256:{digest}",
        "dataset_digest": dataset.digest,
        "split": config.split,
        "classes": len(dataset.names),
        "parameters": count_parameters(model),
        "gflops_640": round(gflops(model), 3),
        "settings": {key: value for key, value in asdict(config).items() if key != "image_sizes"},
        "environment": {
            "cpu": cpu_model(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "fused": True,
        },
        "points": [],
        "best": None,
    }


def sizes_for(config: StudyConfig, stride: int) -> list[int]:
    """Return the sizes rounded up to the stride, rising, each once; says what it rounded."""
    sizes = set()
    for size in config.image_sizes:
        rounded = ceil(size / stride) * stride
        if rounded != size:
            _LOG.warning("image size %d is no multiple of the stride %d; %d is used", size, stride, rounded)
        sizes.add(rounded)
    return sorted(sizes)


def measure(model: DetectionModel, dataset: DetectionDataset, config: StudyConfig, size: int) -> Evaluation:
    """Evaluate at one size, with a bar on stderr."""
    settings = EvalSettings(
        image_size=size,
        batch_size=config.batch_size,
        nms=NmsSettings(confidence=config.confidence, iou=config.iou, multi_label=True),
        precision=config.precision,
        warm_up=True,
    )
    total = len(dataset.samples(config.split))
    with tqdm(total=total, desc=f"{model.variant} {size} px", unit="image", leave=False) as bar:
        return evaluate(model.fuse(), dataset, config.split, settings, progress=bar.update)


def point_of(result: Evaluation, size: int) -> dict[str, Any]:
    """Return one row of the study. AP values lie in 0..1; COCO's are -1 where a size range is empty."""
    coco = result.coco()
    return {
        "image_size": size,
        "precision": result.metrics.precision,
        "recall": result.metrics.recall,
        "map50": result.metrics.map50,
        "map": result.metrics.map,
        "coco_ap": coco.ap,
        "coco_ap50": coco.ap50,
        "preprocess_ms": result.speed.preprocess_ms,
        "inference_ms": result.speed.inference_ms,
        "nms_ms": result.speed.nms_ms,
        "images": len(result.rows),
    }


def cpu_model() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _write(report: dict[str, Any], job: Job) -> dict[str, Any]:
    path = job.path("reports/study/{variant}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    job.tracker.log_artifact(path)
    return {"best": report["best"], "report": str(path)}
