"""What a finished training leaves behind: weights, curves, reports and pictures."""

from __future__ import annotations

import csv
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from components.plots import plot_confusion
from components.train.plan import TrainPlan
from components.train.plots import plot_curves, plot_labels
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.data.preview import contact_sheet
from yolo_core.engine.checkpoint import load_state
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.engine.settings import augmentation_of, settings_document
from yolo_core.engine.train import BEST_FILE, LAST_FILE, VALIDATION_NMS
from yolo_core.model.weights import load_checkpoint

History = Sequence[Mapping[str, float]]
_VERSIONS = ("torch", "torchvision", "numpy", "ray", "opencv-python-headless")


def write_models(checkpoint: Path, target: Path, plan: TrainPlan) -> list[dict[str, float]]:
    """Fill the models folder from the last checkpoint's folder; returns the training's history."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (BEST_FILE, LAST_FILE):
        shutil.copyfile(checkpoint / name, target / name)
    values = load_state(checkpoint).values
    history: list[dict[str, float]] = values["history"]
    document = {
        "settings": settings_document(plan.settings),
        "reasons": list(plan.reasons),
        "fingerprint": plan.fingerprint,
        "dataset_digest": values["dataset_digest"],
        "best_epoch": values["best_epoch"],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
    }
    _write_json(target / "train.json", document)
    plot_curves(history, target / "curves.png")
    return history


def measure(weights: Path, dataset: DetectionDataset, split: str, plan: TrainPlan) -> Evaluation:
    """Evaluate a checkpoint at the training size."""
    settings = EvalSettings(image_size=plan.settings.image_size, batch_size=16, nms=VALIDATION_NMS)
    return evaluate(load_checkpoint(weights), dataset, split, settings)


def make_report(
    plan: TrainPlan, dataset: DetectionDataset, history: History, test: Evaluation | None
) -> dict[str, Any]:
    """Return the contents of reports/train/V.json; ``test`` adds how the best weights do on that split."""
    best = max(history, key=lambda row: row["fitness"])
    seconds = sum(row["seconds"] for row in history)
    report: dict[str, Any] = {
        "variant": plan.settings.variant,
        "epochs": len(history),
        "best_epoch": int(best["epoch"]) + 1,
        "map50": best["map50"],
        "map": best["map"],
        "fitness": best["fitness"],
        "seconds": round(seconds, 2),
        "images_per_second": round(sum(row["images_per_second"] for row in history) / len(history), 2),
        "dataset_digest": dataset.digest,
    }
    if test is not None:
        report["test"] = {"map50": test.metrics.map50, "map": test.metrics.map}
    return report


def write_report(report: Mapping[str, Any], history: History, json_path: Path, csv_path: Path) -> None:
    """Write the report as JSON, and one row per epoch as CSV (epochs count from 1 there)."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    _write_json(json_path, report)
    with csv_path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(history[0]))
        table.writeheader()
        for row in history:
            rounded = {key: f"{value:.6g}" for key, value in row.items()}
            table.writerow({**rounded, "epoch": int(row["epoch"]) + 1})


def draw_data(plan: TrainPlan, dataset: DetectionDataset, folder: Path) -> list[Path]:
    """Draw the labels and the first training batch into a folder; returns the pictures."""
    samples = dataset.samples("train")
    labels, batch = folder / "labels.png", folder / "train_batch.png"
    plot_labels(samples, dataset.names, labels)
    settings = plan.settings
    loader = TrainLoader(
        samples,
        TrainLoaderSettings(
            image_size=settings.image_size,
            batch_size=min(settings.batch_size, 16),
            augmentation=augmentation_of(settings.hyperparameters),
            seed=settings.seed,
        ),
    )
    first = next(iter(loader))
    cv2.imwrite(str(batch), contact_sheet([first], dataset.names))
    return [labels, batch]


def draw_confusion(validation: Evaluation, names: Sequence[str], folder: Path) -> Path:
    """Draw the confusion matrix of an evaluation."""
    path = folder / "confusion.png"
    plot_confusion(validation.confusion.matrix, names, path)
    return path


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
