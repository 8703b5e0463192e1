"""What registration takes from reports, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from components.job import Job
from components.register.config import RegisterConfig
from components.register.facts import gather
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.errors import DataError

POINT = {"image_size": 160, "map50": 0.9, "map": 0.6, "coco_ap": 0.61}
REPORTS: dict[str, dict[str, Any]] = {
    "reports/validation.json": {"success": True},
    "reports/train/yolov5n.json": {"dataset_digest": "sha256:a"},
    "reports/study/yolov5n.json": {
        "model_digest": f"sha256:{hashlib.sha256(b'weights').hexdigest()}",
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


@pytest.mark.parametrize("wrong", [{"format": "tensorrt"}, {"name_prefix": "a/b"}, {"name_prefix": "it's"}])
def test_wrong_configuration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RegisterConfig(**{"name_prefix": "detector-", "format": "checkpoint", **wrong})
