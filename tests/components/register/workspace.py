"""A workspace as the stages before leave it, and what registration makes of it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.runner import Options, run_stage
from components.study.compare.evidence import write_matches
from pipelines.stages import STAGES
from yolo_core import load_checkpoint
from yolo_core.engine.detections import describe
from yolo_core.engine.evaluate import EvalSettings, Evaluation, detect
from yolo_core.export.files import digest_of
from yolo_core.metrics.nms import NmsSettings

REGISTER = next(stage for stage in STAGES if stage.name == "register")
NAME = "detector-yolov5n"
SIZE = 320
IMAGES = 12


@dataclass(frozen=True)
class Registered:
    """A workspace whose model is registered, and the first receipt."""

    root: Path
    receipt: dict[str, Any]
    client: Any

    @property
    def uri(self) -> str:
        """Address of the store."""
        return f"sqlite:///{self.root}/mlflow.db"

    def register(self, run_id: str, *overrides: str) -> dict[str, Any]:
        """Run the stage."""
        options = Options(
            params=self.root / "params.yaml",
            workspace=str(self.root),
            variant="yolov5n",
            run_id=run_id,
            overrides=(f"tracking.uri={self.uri}", *overrides),
        )
        result: dict[str, Any] = run_stage(REGISTER, options)["result"]
        return result


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_reports(root: Path, evaluation: Evaluation) -> None:
    """Write what the stages before say of a checkpoint."""
    dataset, weights = evaluation.dataset, digest_of(root / "models/yolov5n/best.safetensors")
    coco = evaluation.coco()
    point = {"image_size": SIZE, "map50": evaluation.metrics.map50, "map": evaluation.metrics.map}
    point |= {"precision": 0.6, "recall": 0.5, "coco_ap": coco.ap, "coco_ap50": coco.ap50, "total_ms": 21.5}
    counts = dict.fromkeys(dataset.names, 60) | {"zebra": 3}
    write_json(
        root / "reports/validation.json",
        {
            "success": True,
            "dataset_digest": dataset.digest,
            "quarantined_images": 0,
            "rules": [
                {"rule": "box_inside", "severity": "block", "success": True, "failed": 0},
                {"rule": "class_balance", "severity": "warn", "success": False, "failed": 2},
            ],
        },
    )
    write_json(root / "reports/validation/statistics.json", {"splits": {"train": {"classes": counts}}})
    write_json(root / "reports/train/yolov5n.json", {"dataset_digest": dataset.digest, "epochs": 300})
    write_json(
        root / "models/yolov5n/train.json",
        {"settings": {"image_size": SIZE, "seed": 0}, "reasons": ["few images: v6.0-finetune"]},
    )
    write_json(
        root / "reports/export/yolov5n.json",
        {"pytorch": {"latency_ms": 50.0}, "torchscript": {"passed": 1, "latency_ms": 20.0, "megabytes": 7.5}},
    )
    write_json(
        root / "reports/study/yolov5n.json",
        {
            "variant": "yolov5n",
            "model_digest": weights,
            "dataset_digest": dataset.digest,
            "split": "test",
            "parameters": 1_872_157,
            "points": [{**point, "image_size": 160, "map50": 0.01}, point],
            "best": {"image_size": SIZE, "map50": point["map50"], "map": point["map"]},
            "environment": {"cpu": "a CPU", "threads": 2},
            "per_class": evaluation.metrics.per_class(dataset.names),
            "per_size": [
                {"size": "small", "instances": 40, "ap": 0.01},
                {"size": "medium", "instances": 5, "ap": 0.3},
                {"size": "large", "instances": 0, "ap": None},
            ],
        },
    )
    write_matches(root / "reports/study/yolov5n.npz", evaluation, weights)
    (root / "reports/study.csv").touch()


def checkpoint_finds(registered: Registered, photo: Path) -> list[dict[str, Any]]:
    """What the checkpoint itself finds on a photo."""
    model = load_checkpoint(registered.root / "models/yolov5n/best.safetensors")
    settings = EvalSettings(image_size=SIZE, nms=NmsSettings())
    found = describe(detect(model, [cv2.imread(str(photo))], settings)[0], model.names)
    assert found, "the photo must show something"
    return found


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    """Equal but for the rounding of a fused model."""
    return len(first) == len(second) and all(
        one["name"] == two["name"]
        and one["class"] == two["class"]
        and abs(one["score"] - two["score"]) < 2e-3
        and np.allclose(one["xyxy"], two["xyxy"], atol=0.5)
        for one, two in zip(first, second, strict=True)
    )


def clean_environment() -> dict[str, str]:
    """The environment without what leads to this repository, and with unpickling forbidden."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
    return {**kept, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
