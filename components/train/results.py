"""What a finished training leaves behind: weights, curves, reports and pictures."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.train.plan import TrainPlan
from components.train.plots import plot_curves
from yolo_core.data.coco import DetectionDataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate
from yolo_core.engine.settings import settings_document
from yolo_core.engine.states import StateStore
from yolo_core.engine.train import VALIDATION_NMS
from yolo_core.errors import CheckpointError
from yolo_core.model.weights import load_checkpoint

History = Sequence[Mapping[str, float]]
_VERSIONS = ("torch", "torchvision", "numpy", "ray", "opencv-python-headless")


def write_models(states: StateStore, target: Path, plan: TrainPlan) -> list[dict[str, float]]:
    """Fill the models folder from a finished training's last state; returns the training's history."""
    target.mkdir(parents=True, exist_ok=True)
    found = states.newest(weights_to=target)
    if found is None:
        raise CheckpointError(f"the states of the training are gone from {states.place}; train again")
    values = found[1].values
    history: list[dict[str, float]] = values["history"]
    document = {
        "settings": settings_document(plan.settings),
        "reasons": list(plan.reasons),
        "fingerprint": plan.fingerprint,
        "dataset_digest": values["dataset_digest"],
        "pretrained": None if plan.weights is None else plan.weights.lineage,
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
        columns = dict.fromkeys(key for row in history for key in row)  # some epochs lack a figure
        table = csv.DictWriter(file, fieldnames=list(columns))
        table.writeheader()
        for row in history:
            rounded = {key: f"{value:.6g}" for key, value in row.items()}
            table.writerow({**rounded, "epoch": int(row["epoch"]) + 1})


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
