"""What registration takes from reports, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.job import Job
from components.register.card import card_page, card_text
from components.register.config import RegisterConfig
from components.register.facts import gather
from components.register.order import best_first
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.errors import DataError
from yolo_core.metrics.coco_matching import ImageTruth, match_images, save_matches

POINT = {"image_size": 160, "map50": 0.9, "map": 0.6, "coco_ap": 0.61}
WEIGHTS = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
REPORTS: dict[str, dict[str, Any]] = {
    "data/dataset/dataset.json": {"digest": "sha256:a", "source": "dvc://server/repo@v2.1/data/all"},
    "models/yolov5n/train.json": {},
    "reports/validation.json": {"success": True},
    "reports/validation/statistics.json": {},
    "reports/export/yolov5n.json": {},
    "reports/train/yolov5n.json": {"dataset_digest": "sha256:a"},
    "reports/study/yolov5n.json": {
        "model_digest": WEIGHTS,
        "dataset_digest": "sha256:a",
        "split": "test",
        "points": [{**POINT, "image_size": 128, "map50": 0.5}, POINT],
        "best": {"image_size": 160},
    },
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    for name, content in REPORTS.items():
        write(tmp_path / name, content)
    truths = [ImageTruth(boxes=np.eye(1, 4) * 9 + 1, classes=np.zeros(1, np.int64), crowd=np.zeros(1, bool))]
    matches = match_images(truths, [np.zeros((0, 6))], 1)
    save_matches(
        tmp_path / "reports/study/yolov5n.npz", matches, {"model_digest": WEIGHTS, "names": ["thing"]}
    )
    return Job(
        stage="register",
        variant="yolov5n",
        workspace=Workspace(root=tmp_path, uri=str(tmp_path)),
        tracker=NullTracker(),
        run_id="r1",
        params={},
    )


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_best_point_counts(job: Job) -> None:
    facts = gather(job, job.path("best.safetensors"))
    assert facts.metrics == {"map50": 0.9, "map": 0.6, "coco_ap": 0.61}
    assert (facts.image_size, facts.split, facts.validated) == (160, "test", True)
    assert facts.model_digest.startswith("sha256:")
    assert len(facts.model_digest) == len("sha256:") + 64
    assert facts.document["data"]["revision"] == "v2.1"


def test_what_nobody_stated_is_said_on_the_card(job: Job) -> None:
    document = gather(job, job.path("best.safetensors")).document
    for card in (card_text(document, "detector"), card_page(document, "detector")):
        assert "not stated" in card
        assert "None" not in card
        assert "AP by object size was not measured." in card
        assert "Nobody stated a licence of the weights" in card


def test_names_of_classes_cannot_mark_up_the_card(job: Job) -> None:
    document = gather(job, job.path("best.safetensors")).document
    document["model"]["classes"] = ["a|b", "<script>", "*c*"]
    assert "<script>" not in card_page(document, "detector")
    assert "3: a\\|b, &lt;script&gt;, \\*c\\*" in card_text(document, "detector")


def test_the_fastest_that_passed_comes_first_and_int8_is_left_out() -> None:
    passed = {"passed": 1, "failed": 0}
    report = {
        "pytorch": {"latency_ms": 50.0},
        "onnx": {**passed, "latency_ms": 20.0},
        "openvino": {**passed, "latency_ms": 10.0},
        "torchscript": {**passed, "latency_ms": 60.0},
        "nonsense": {**passed, "latency_ms": 1.0},
    }
    assert best_first(report) == ["openvino", "onnx", "checkpoint", "torchscript"]
    report["openvino"] = {"passed": 0, "failed": 1, "latency_ms": 10.0}
    report["onnx"] = {"passed": 0, "failed": 0, "latency_ms": 20.0}
    assert best_first(report) == ["checkpoint", "torchscript"]
    assert best_first({}) == ["checkpoint"]
    lossy = {"onnx": {**passed, "latency_ms": 5.0, "ap_difference": -0.01}}
    assert best_first(lossy) == ["checkpoint"]
    assert best_first({"onnx-int8": {**passed, "latency_ms": 5.0}}) == ["checkpoint"]
    assert best_first({"pytorch": {"detect_ms": 9, "latency_ms": 1}, "onnx": {**passed, "detect_ms": 8}}) == [
        "onnx",
        "checkpoint",
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("reports/train/yolov5n.json", {"dataset_digest": "sha256:b"}, "was trained on sha256:b but studied"),
        ("reports/train/yolov5n.json", {"dataset_digest": None}, "was trained on None"),
        ("reports/study/yolov5n.json", {"best": {"image_size": 999}}, "run study and train again"),
        ("reports/study/yolov5n.json", {"model_digest": "sha256:b"}, "measured another checkpoint"),
        ("reports/study/yolov5n.json", {"points": None}, "run study and train again"),
        ("reports/study/yolov5n.json", {"best": {}}, "lack 'image_size'"),
    ],
)
def test_reports_that_do_not_fit(job: Job, name: str, change: dict[str, Any], message: str) -> None:
    write(job.path(name), {**REPORTS[name], **change})
    with pytest.raises(DataError, match=message):
        gather(job, job.path("best.safetensors"))


def test_reports_that_cannot_be_read(job: Job) -> None:
    report = job.path("reports/validation.json")
    report.write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="is not a report"):
        gather(job, job.path("best.safetensors"))
    report.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        gather(job, job.path("best.safetensors"))


def test_a_failed_validation_is_recorded(job: Job) -> None:
    write(job.path("reports/validation.json"), {"success": False})
    assert not gather(job, job.path("best.safetensors")).validated


@pytest.mark.parametrize("wrong", [{"format": ""}, {"name_prefix": "a/b"}, {"name_prefix": "it's"}])
def test_wrong_configuration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RegisterConfig(**{"name_prefix": "detector-", "format": "checkpoint", **wrong})
