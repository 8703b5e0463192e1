"""``study-all``: several models in one command, and what happens when one of them cannot be studied."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from components.study.study_all import GROUPS, named_models
from yolo_core.errors import UnknownVariantError, UsageError
from yolo_core.model.graph import create_model
from yolo_core.model.weights import save_checkpoint


@pytest.fixture
def campaign(workspace: Path, studied: Path, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Run the command in a workspace with data, yolov5n's weights in models/, and a copy named copy.pt."""
    for name in ("data", "models"):
        shutil.copytree(studied / name, workspace / name)
    (workspace / "mine").mkdir()
    shutil.copy(workspace / "models/yolov5n/best.safetensors", workspace / "mine/copy.safetensors")

    def start(*words: object) -> Any:
        options = [
            "--params",
            workspace / "params.yaml",
            "--workspace",
            workspace,
            "--run-id",
            "r1",
            "--json",
        ]
        for setting in ("image_sizes=[64,96]", "timed_images=2"):
            options += ["--set", f"study.{setting}"]
        return launch("study-all", *words, *options)

    return start


def test_variants_and_files_are_studied_and_compared(campaign: Callable[..., Any], workspace: Path) -> None:
    done = campaign("yolov5n", workspace / "mine/copy.safetensors")
    assert done.code == 0, done.err
    assert done.result["studied"] == ["yolov5n", "copy"] and done.result["failed"] == {}
    with (workspace / "reports/study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["image_size"]) for row in rows] == [
        ("yolov5n", "64"), ("yolov5n", "96"), ("copy", "64"), ("copy", "96"),
    ]  # fmt: skip
    assert rows[0]["map"] == rows[2]["map"]
    assert (workspace / "reports/study.png").stat().st_size > 10_000
    client = mlflow.MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    [experiment] = [item for item in client.search_experiments() if item.name == "yolo-mlops"]
    query = (
        "tags.`study.variant` = 'copy' and tags.`study.split` = 'test' and tags.`study.precision` = 'fp32'"
    )
    [run] = client.search_runs([experiment.experiment_id], query)
    report = json.loads((workspace / "reports/study/copy.json").read_text())
    assert run.data.tags["model.digest"] == report["model_digest"]
    assert run.data.tags["dataset.name"] == "photos" and run.data.tags["study.device"] in ("cpu", "cuda")
    assert {item.step for item in client.get_metric_history(run.info.run_id, "total_p95_ms")} == {64, 96}


def test_on_ray_workers_one_that_fails_stops_no_other(campaign: Callable[..., Any], workspace: Path) -> None:
    other = workspace / "mine/other.safetensors"
    save_checkpoint(create_model("yolov5n", names=["red", "blue"], num_classes=2), other, {})
    points = []
    for workers in (2, 1):  # the second measures all again, as its points are kept elsewhere
        sets = ("--set", f"study.workers={workers}", "--set", f"study.storage=runs/{workers}")
        done = campaign("yolov5s", other, "yolov5n", *sets)
        assert done.code == UsageError.exit_code
        assert done.result["studied"] == ["yolov5n"] and set(done.result["failed"]) == {"yolov5s", "other"}
        assert "error: yolov5s: no weights at" in done.err and "train --variant yolov5s" in done.err
        assert "error: other:" in done.err and "knows other classes" in done.err
        assert [path.name for path in (workspace / "reports/study").glob("*.json")] == ["yolov5n.json"]
        report = json.loads((workspace / "reports/study/yolov5n.json").read_text())
        keys = ("image_size", "map", "coco_ap", "images", "batch_size")
        points.append([[point[key] for key in keys] for point in report["points"]])
    assert points[0] == points[1]


def test_where_nothing_can_be_studied_nothing_is_compared(
    campaign: Callable[..., Any], workspace: Path
) -> None:
    done = campaign("yolov5s", "yolov5m")
    assert done.code == UsageError.exit_code and done.result["studied"] == []
    assert not (workspace / "reports/study.csv").exists()


def test_groups_are_the_releases_models() -> None:
    assert list(named_models(["p6"])) == ["yolov5n6", "yolov5s6", "yolov5m6", "yolov5l6", "yolov5x6"]
    assert list(named_models(["p5"])) == ["yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"]
    assert len(named_models(["all"])) == len(GROUPS["all"]) == 10


def test_files_and_registered_models_are_named() -> None:
    named = named_models(["weights/yolov5n6.pt", "yolov5n", "models:/detector-yolov5s@champion"])
    assert named == {
        "yolov5n6": "weights/yolov5n6.pt",
        "yolov5n": None,
        "detector-yolov5s@champion": "models:/detector-yolov5s@champion",
    }


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ([], UsageError, "no models"),
        (["yolov5q"], UnknownVariantError, "yolov5q"),
        (["a/best.pt", "b/best.pt"], UsageError, "two models are called best"),
        (["p6", "yolov5n6"], UsageError, "two models are called yolov5n6"),
    ],
)
def test_wrong_words_are_named(words: list[str], kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind, match=message):
        named_models(words)


def test_s3_is_left_to_the_stage(launch: Callable[..., Any]) -> None:
    assert "study-all works in a folder" in launch("study-all", "--workspace", "s3://bucket/x").complaint
