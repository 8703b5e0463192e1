"""A workspace with the official weights on a few real photographs, and handmade studies to compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import load_section
from components.job import Job
from components.study.config import CompareConfig, StudyConfig
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.data.coco import ClassTable, SourceImage, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.model.weights import load_checkpoint, save_checkpoint

PHOTOS = 12


@pytest.fixture(scope="session")
def studied(
    assets: Path,
    coco128: tuple[list[SourceImage], ClassTable],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Photographs of COCO as the splits train and test, and yolov5n's official weights; don't write to it."""
    images, classes = coco128
    root = tmp_path_factory.mktemp("studied")
    unlabelled = [SourceImage(file_name=image.file_name, content=image.content) for image in images[:2]]
    splits = {"train": images[:PHOTOS], "val": unlabelled, "test": images[:PHOTOS]}
    write_dataset(root / "data/dataset", splits, classes, name="photos", source="COCO128")
    write_quarantine(root / "data/dataset", "", {})
    (root / "models/yolov5n").mkdir(parents=True)
    model = load_checkpoint(assets / "weights/yolov5n.pt")
    save_checkpoint(model, root / "models/yolov5n/best.safetensors", {})
    return root


@pytest.fixture
def make_job(tmp_path: Path, studied: Path) -> Callable[..., Job]:
    """Build a job, untracked, in a fresh folder that shares data and models."""

    def build(stage: str, variant: str | None = "yolov5n", **params: Any) -> Job:
        for name in ("data", "models"):
            if not (tmp_path / name).exists():
                shutil.copytree(studied / name, tmp_path / name)
        (tmp_path / "reports/study").mkdir(parents=True, exist_ok=True)
        return Job(
            stage=stage,
            variant=variant,
            workspace=Workspace(root=tmp_path, uri=str(tmp_path)),
            tracker=NullTracker(),
            run_id="test",
            params=params,
        )

    return build


@pytest.fixture
def study_config(params: dict[str, Any]) -> Callable[..., StudyConfig]:
    """Build the shipped configuration with a few keys changed."""

    def build(**changes: Any) -> StudyConfig:
        quick = {"image_sizes": [320], "timed_images": 3, **changes}
        return load_section({"study": {**params["study"], **quick}}, "study", StudyConfig)

    return build


@pytest.fixture
def compare_config(params: dict[str, Any]) -> CompareConfig:
    return load_section(params, "compare", CompareConfig)


@pytest.fixture
def put_reports(tmp_path: Path) -> Callable[..., Path]:
    """Write studies into a workspace's reports; returns their folder."""

    def put(*reports: dict[str, Any]) -> Path:
        folder = tmp_path / "reports/study"
        folder.mkdir(parents=True, exist_ok=True)
        for report in reports:
            (folder / f"{report['variant']}.json").write_text(json.dumps(report))
        return folder

    return put
