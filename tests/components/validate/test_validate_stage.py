"""The validate stage from the command line, and on real data."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.dataset.config import BuiltinConfig, DatasetConfig
from components.dataset.work import materialise
from yolo_core.data.coco import open_dataset

from .conftest import Bench, Validated

Launch = Callable[..., Any]


def real(source: Path, target: Path) -> None:
    if not source.is_dir():
        pytest.skip(f"no {source}")
    config = DatasetConfig(
        source=str(source),
        format="auto",
        seed=0,
        val_fraction=0.0,
        test_fraction=0.0,
        group_by="auto",
        shard_above=10_000,
        downloads=str(target.parent / "downloads"),
        coco2017_url="http://127.0.0.1:9",
        builtin=BuiltinConfig(train_images=1, val_images=1, test_images=1),
    )
    materialise(config, target)


@pytest.fixture
def stage(launch: Launch, workspace: Path, bench: Bench) -> Callable[..., Any]:
    """Run ``python -m components validate`` in the bench's workspace (the fixtures share tmp_path)."""
    assert bench.root == workspace

    def run(*words: str) -> Any:
        return launch(
            "validate", "--params", workspace / "params.yaml", "--workspace", workspace, "--json", *words
        )

    return run


def test_a_good_dataset_passes_and_is_tracked(stage: Callable[..., Any], workspace: Path) -> None:
    few = [f"--set=validate.min_instances.{split}=0" for split in ("val", "test")]
    done = stage(*few, "--set=validate.max_split_distance=0.5")
    assert done.code == 0, done.err
    assert done.result["result"] == {
        "success": True,
        "quarantined": 0,
        "images": 18,
        "annotations": json.loads((workspace / "reports" / "validation.json").read_text())["annotations"],
        "warnings": [],
        "report": "reports/validation.json",
    }
    with sqlite3.connect(workspace / "mlflow.db") as store:
        tags = dict(store.execute("select key, value from tags where key = 'validation'").fetchall())
        metrics = dict(store.execute("select key, value from latest_metrics").fetchall())
    assert tags == {"validation": "passed"}
    assert metrics["failed_box_inside"] == 0
    names = {path.name for path in (workspace / "mlartifacts").rglob("*.*")}
    reports = {"summary.html", "statistics.json", "offenders.csv"}
    assert {"validation.json", "index.html"} | reports <= names


def test_a_bad_dataset_ends_with_1_and_leaves_its_reports(
    stage: Callable[..., Any], bench: Bench, workspace: Path
) -> None:
    bench.edit(lambda content: content["annotations"][0].update(category_id=99))
    done = stage()
    assert done.code == 1
    assert done.err.splitlines()[0].startswith("error: the dataset is not fit for training")
    assert "annotation_class_known: 1 (annotations 1)" in done.complaint
    report = json.loads((workspace / "reports" / "validation.json").read_text())
    assert report["success"] is False
    assert (workspace / "reports" / "validation" / "data_docs" / "index.html").is_file()
    with sqlite3.connect(workspace / "mlflow.db") as store:
        assert ("validation", "failed") in store.execute("select key, value from tags").fetchall()
        statuses = {status for (status,) in store.execute("select status from runs").fetchall()}
    assert statuses == {"FAILED"}


def test_severity_from_the_command_line(stage: Callable[..., Any], bench: Bench) -> None:
    bench.edit(lambda content: content["annotations"][0].update(bbox=[-9, 0, 30, 30]))
    assert stage().code == 1
    assert stage("--set=validate.severity.box_inside=warn").code == 0
    done = stage("--set=validate.severity.box_insid=warn")
    assert done.code == 2 and "did you mean 'box_inside'" in done.complaint


def test_without_a_dataset_it_is_wrong_usage(launch: Launch, workspace: Path) -> None:
    done = launch("validate", "--params", workspace / "params.yaml", "--workspace", workspace)
    assert done.code == 2
    assert "python -m components dataset" in done.complaint


def test_bccd_passes_without_the_image_that_two_splits_share(assets: Path, tmp_path: Path) -> None:
    real(assets / "bccd_voc", tmp_path / "data" / "dataset")
    done: Validated = Bench(tmp_path).validate(drop_budget=1.0)
    assert done.error is None and done.result is not None
    assert done.result["quarantined"] == 1
    assert done.broken == {"box_not_tiny", "annotation_unique", "image_looks_in_one_split"}
    assert done.rule("annotation_unique")["failed"] == 14  # seven cells are boxed twice
    dataset = open_dataset(tmp_path / "data" / "dataset")
    shared = {"images/train/BloodImage_00038.jpg", "images/val/BloodImage_00037.jpg"}
    assert set(done.rule("image_looks_in_one_split")["files"]) == shared
    assert dataset.excluded == {"images/train/BloodImage_00038.jpg"}  # what measures stays
    assert len(dataset.samples("train")) == dataset.splits["train"].images - 1
    assert len(dataset.samples("val")) == dataset.splits["val"].images
    assert done.rule("box_not_tiny")["files"] == [
        "images/train/BloodImage_00343.jpg",
        "images/val/BloodImage_00338.jpg",
    ]


def test_coco128_passes_once_its_shared_split_is_accepted(assets: Path, tmp_path: Path) -> None:
    real(assets / "coco128_yolo", tmp_path / "data" / "dataset")
    accepted = Bench(tmp_path).validate(severity={"image_in_one_split": "warn"})
    assert accepted.error is None
    assert accepted.rule("image_in_one_split")["failed"] == 256  # data.yaml has one folder for both
    assert accepted.broken == {"image_in_one_split", "box_not_tiny", "class_has_instances", "class_balanced"}
    assert len(accepted.rule("class_has_instances")["classes"]) == 9
