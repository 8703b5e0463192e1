"""The study stage on real photographs with the official weights, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mlflow
import pytest
import torch

from components.config import load_section, read_params
from components.job import Job
from components.study.config import StudyConfig
from components.study.study import is_coco_val, run
from components.study.subject import choose_device
from components.tracking import NullTracker
from components.workspace import Workspace
from yolo_core.data.coco import DetectionDataset, SplitInfo, open_dataset
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.coco_eval import coco_evaluate
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import create_model
from yolo_core.model.weights import load_checkpoint, save_checkpoint

MakeJob = Callable[..., Job]
MakeConfig = Callable[..., StudyConfig]
CONTRACT = {
    "variant",
    "model_digest",
    "dataset_digest",
    "split",
    "parameters",
    "gflops_640",
    "settings",
    "environment",
    "points",
    "best",
}
POINT = {
    "image_size",
    "map50",
    "map",
    "precision",
    "recall",
    "coco_ap",
    "coco_ap50",
    "preprocess_ms",
    "inference_ms",
    "nms_ms",
    "images",
}


def read(job: Job) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(job.path("reports/study/{variant}.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def measured(studied: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job of a finished study at 192 and 320 pixels."""
    root = tmp_path_factory.mktemp("measured")
    for name in ("data", "models"):
        shutil.copytree(studied / name, root / name)
    (root / "reports/study").mkdir(parents=True)
    job = Job(
        stage="study",
        variant="yolov5n",
        workspace=Workspace(root=root, uri=str(root)),
        tracker=NullTracker(),
        run_id="test",
        params={},
    )
    section = {**read_params(repo / "params.yaml")["study"], "image_sizes": [320, 192], "timed_images": 3}
    result = run(load_section({"study": section}, "study", StudyConfig), job)
    assert result["best"] == read(job)["best"]
    return job


def test_the_report_holds_what_evaluate_measures(measured: Job) -> None:
    report = read(measured)
    assert set(report) >= CONTRACT and all(set(point) >= POINT for point in report["points"])
    assert [point["image_size"] for point in report["points"]] == [192, 320]
    model = load_checkpoint(measured.path("models/yolov5n/best.safetensors")).fuse()
    dataset = open_dataset(measured.path("data/dataset"))
    nms = NmsSettings(confidence=0.001, iou=0.7, multi_label=True)
    for point in report["points"]:
        expected = evaluate(model, dataset, "test", EvalSettings(image_size=point["image_size"], nms=nms))
        assert point["map"] == pytest.approx(expected.metrics.map, abs=1e-3) and point["map"] > 0.2
        assert point["coco_ap"] == pytest.approx(expected.coco().ap, abs=1e-3)
        assert point["images"] == 12
        assert 0 < point["inference_ms"] < 5000 and point["nms_ms"] > 0 and point["preprocess_ms"] > 0
    top = max(report["points"], key=lambda point: point["map"])
    assert report["best"]["map"] == top["map"] and report["best"]["image_size"] == top["image_size"]


def test_the_report_says_what_was_measured(measured: Job) -> None:
    report = read(measured)
    weights = measured.path("models/yolov5n/best.safetensors").read_bytes()
    assert report["model_digest"] == f"sha256:{hashlib.sha256(weights).hexdigest()}"
    dataset = open_dataset(measured.path("data/dataset"))
    assert report["dataset_digest"] == dataset.digest
    assert report["parameters"] == 1_872_157  # not the fused count
    assert report["gflops_640"] == pytest.approx(4.6, abs=0.05)
    assert report["settings"]["iou"] == 0.7 and report["settings"]["device"] in ("cpu", "cuda")
    assert report["environment"]["threads"] == torch.get_num_threads() and report["environment"]["cpu"]
    names = sorted(path.name for path in measured.path("reports/study").iterdir())
    assert names == ["curve", "sizes", "yolov5n.json", "yolov5n.npz", "yolov5n.txt"]
    assert sum(row["instances"] for row in report["per_class"]) == dataset.splits["test"].boxes
    assert sum(row["instances"] for row in report["per_size"]) == dataset.splits["test"].boxes


def test_sizes_are_rounded_up_to_the_stride_once(
    make_job: MakeJob, study_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job("study")
    run(study_config(image_sizes=[100, 128, 128]), job)
    assert [point["image_size"] for point in read(job)["points"]] == [128]
    assert "image size 100 is not a multiple of the stride 32; 128 is used" in caplog.text


def test_batches_and_bf16_measure_nearly_the_same(make_job: MakeJob, study_config: MakeConfig) -> None:
    job = make_job("study")
    found = []
    for changes in ({}, {"batch_size": 4, "precision": "bf16"}):
        run(study_config(**changes), job)
        found.append(read(job)["best"]["map"])
    assert found[0] == pytest.approx(found[1], abs=0.04)


def test_three_looks_find_more_and_are_told(make_job: MakeJob, study_config: MakeConfig) -> None:
    job = make_job("study")
    found = []
    for augment in (False, True):
        run(study_config(augment=augment), job)
        report = read(job)
        assert report["settings"]["augment"] is augment
        found.append(report["best"]["map"])
    assert found[0] != found[1] and found[1] > found[0] - 0.02


def test_weights_that_find_nothing_score_zero(make_job: MakeJob, study_config: MakeConfig) -> None:
    job = make_job("study")
    dataset = open_dataset(job.path("data/dataset"))
    fresh = create_model("yolov5n", names=dataset.names)
    save_checkpoint(fresh, job.path("models/yolov5n/best.safetensors"), {})
    run(study_config(confidence=0.9), job)
    report = read(job)
    point = report["points"][0]
    assert (point["map"], point["map50"], point["recall"], point["coco_ap"]) == (0, 0, 0, 0)
    assert report["best"] == {"image_size": 320, "map50": 0, "map": 0, "confidence": 0}


def test_everything_is_logged(
    launch: Callable[..., Any], workspace: Path, studied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("data", "models"):
        shutil.copytree(studied / name, workspace / name)
    params = workspace / "params.yaml"
    finished = launch(
        "study", "--variant", "yolov5n", "--params", params, "--workspace", workspace, "--run-id", "r1",
        "--set", "study.image_sizes=[192,320]", "--set", "study.timed_images=2", "--json",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    report = json.loads((workspace / "reports/study/yolov5n.json").read_text())
    client = mlflow.MlflowClient(finished.result["mlflow_uri"])
    run_id = finished.result["mlflow_run_id"]
    for key in ("map50", "coco_ap", "inference_ms"):
        history = client.get_metric_history(run_id, key)
        assert {entry.step: entry.value for entry in history} == {
            point["image_size"]: pytest.approx(point[key]) for point in report["points"]
        }
    logged = client.get_run(run_id)
    assert logged.data.metrics["best.map"] == pytest.approx(report["best"]["map"])
    assert logged.inputs.dataset_inputs[0].dataset.name == "photos"
    folder = workspace / "downloaded"
    folder.mkdir()
    client.download_artifacts(run_id, "", str(folder))
    for name in ("confusion.png", "precision_recall.png", "detections.jpg"):
        assert cv2.imread(str(folder / "pictures" / name)).std() > 5
    results = json.loads((folder / "detections.json").read_text())
    coco = coco_evaluate(workspace / "data/dataset/annotations/test.json", results)
    best = next(p for p in report["points"] if p["image_size"] == report["best"]["image_size"])
    assert coco.ap == pytest.approx(best["coco_ap"], abs=1e-6)
    assert "study yolov5n 192 px: mAP@.5" in caplog.text


def test_missing_weights_are_named_with_the_command_that_makes_them(
    make_job: MakeJob, study_config: MakeConfig
) -> None:
    job = make_job("study")
    job.path("models/yolov5n/best.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"no weights at .*run `python -m components train --variant yolov5n`"
    ):
        run(study_config(), job)


def test_a_split_that_is_absent_or_has_no_boxes_is_named(make_job: MakeJob, study_config: MakeConfig) -> None:
    job = make_job("study")
    with pytest.raises(DataError, match="'val' of photos has no boxes"):
        run(study_config(split="val"), job)
    with pytest.raises(DataError, match="no split 'holdout'; it has train, val, test"):
        run(study_config(split="holdout"), job)


def test_weights_of_other_classes_are_refused(make_job: MakeJob, study_config: MakeConfig) -> None:
    job = make_job("study")
    save_checkpoint(
        create_model("yolov5n", names=["red", "blue"], num_classes=2),
        job.path("models/yolov5n/best.safetensors"),
        {},
    )
    with pytest.raises(UsageError, match="knows other classes than"):
        run(study_config(), job)


def test_a_variant_must_be_named(make_job: MakeJob, study_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match="--variant"):
        run(study_config(), make_job("study", None))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="device is cuda, but torch sees no GPU"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_sizes", [], "study: image_sizes"),
        ("image_sizes", [0], "study: image_sizes"),
        ("image_sizes", 320, r"study\.image_sizes must be tuple or str"),
        ("batch_size", 0, "batch_size must be 1 or more"),
        ("timed_images", 0, "timed_images must be 1 or more"),
        ("iou", 1.5, r"iou must lie in 0\.\.1"),
        ("confidence", -0.1, r"confidence must lie in 0\.\.1"),
        ("precision", "int8", "precision is 'int8'; choose one of fp32, bf16, fp16"),
        ("device", "tpu", "device is 'tpu'; choose one of auto, cpu, cuda"),
        ("image_size", 320, r"study\.image_size is not a known key"),
    ],
)
def test_a_wrong_setting_is_named(params: dict[str, Any], key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_section({"study": {**params["study"], key: value}}, "study", StudyConfig)


def test_only_coco_val2017_counts_as_such(make_job: MakeJob) -> None:
    photos = open_dataset(make_job("study").path("data/dataset"))

    def with_images(dataset: DetectionDataset, count: int) -> DetectionDataset:
        return replace(dataset, splits={"val": SplitInfo(images=count, boxes=1)})

    assert is_coco_val(with_images(photos, 5000), "val")
    assert not is_coco_val(with_images(photos, 128), "val")
    others = replace(with_images(photos, 5000), category_ids=tuple(range(1, 81)))
    assert not is_coco_val(others, "val")
