"""Versions with evidence that is made up, so that what the gates must say of them is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.promote.case import Candidate
from components.promote.config import PromoteConfig
from yolo_core.metrics.coco_matching import CocoMatches, ImageTruth, match_images, save_matches

NAMES = ("cat", "dog")
DATA = "sha256:" + "a" * 64
WEIGHTS = "sha256:" + "b" * 64


def made_up_matches(
    quality: float | Mapping[str, float], images: int = 120, names: tuple[str, ...] = NAMES, seed: int = 0
) -> CocoMatches:
    """Each image holds one object of every class; the share ``quality`` of a class is found.

    What a lower quality finds, a higher one finds, too: the AP of a class is about its quality.
    """
    luck = np.random.default_rng(seed).random((images, len(names)))
    truths, found = [], []
    for row in luck:
        boxes = np.array([[60.0 * k, 10, 60.0 * k + 40, 50] for k in range(len(names))])
        labels = np.arange(len(names))
        truths.append(ImageTruth(boxes=boxes, classes=labels, crowd=np.zeros(len(names), bool)))
        share = [quality[name] if isinstance(quality, Mapping) else quality for name in names]
        hit = np.flatnonzero(row < share)
        found.append(np.column_stack([boxes[hit], 0.5 + 0.5 * row[hit], labels[hit]]))
    return match_images(truths, found, len(names))


def facts(**changes: Any) -> dict[str, Any]:
    """evidence.json of a version that passes every rule; ``changes`` replace whole parts of it."""
    return {
        "format": 1,
        "variant": "yolov5n",
        "model_digest": WEIGHTS,
        "dataset_digest": DATA,
        "data": {"validation": {"passed": True, "failed_rules": []}},
        "evaluation": {
            "split": "test",
            "image_size": 64,
            "settings": {"batch_size": 1, "confidence": 0.001, "iou": 0.7, "precision": "fp32"},
            "per_size": [
                {"size": "small", "instances": 0, "ap": None},
                {"size": "medium", "instances": 240, "ap": 0.7},
                {"size": "large", "instances": 0, "ap": None},
            ],
        },
        "export": {
            "pytorch_latency_ms": 20.0,
            "formats": {"onnx": {"verdict": "PASS", "reasons": [], "latency_ms": 8.0}},
        },
        **changes,
    }


def write_evidence(
    folder: Path, matches: CocoMatches, about: Mapping[str, Any], names: tuple[str, ...]
) -> None:
    """Write a folder as `components.evidence` describes it."""
    folder.mkdir(parents=True)
    (folder / "evidence.json").write_text(json.dumps(about), encoding="utf-8")
    save_matches(folder / "matches.npz", matches, {"names": list(names)})


def candidate(version: str, quality: float | Mapping[str, float], **changes: Any) -> Candidate:
    """A version as the rules see it."""
    from components.evidence import Evidence

    names = changes.pop("names", NAMES)
    images = changes.pop("images", 120)
    matches = made_up_matches(quality, images, names, changes.pop("seed", 0))
    return Candidate.of(version, Evidence(facts=facts(**changes), matches=matches, names=names))


def config(**changes: Any) -> PromoteConfig:
    """Section promote as params.yaml has it, with changes."""
    from components.config import load_section, read_params

    section = read_params(Path(__file__).resolve().parents[3] / "params.yaml")["promote"]
    return load_section({"promote": {**section, "resamples": 300, **changes}}, "promote", PromoteConfig)
