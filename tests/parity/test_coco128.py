"""The release's own weights on COCO128 score what the release measured (spec, "Official checkpoints").

They are measured once, by the command ``val`` at its defaults.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.study.val.command import val
from components.study.val.results_file import read_results
from yolo_core.data.coco import ClassTable, DetectionDataset, SourceImage, write_dataset
from yolo_core.engine.evaluate import Evaluation, judge


@pytest.fixture(scope="module")
def dataset(
    coco128: tuple[list[SourceImage], ClassTable], tmp_path_factory: pytest.TempPathFactory
) -> DetectionDataset:
    images, classes = coco128
    target = tmp_path_factory.mktemp("coco128") / "dataset"
    return write_dataset(target, {"train": images}, classes, name="coco128", source="COCO128")


@pytest.fixture(scope="module")
def folder(
    assets: Path, dataset: DetectionDataset, repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What ``val`` wrote about the official weights."""
    out = tmp_path_factory.mktemp("val") / "out"
    words = [assets / "weights/yolov5n.pt", "--data", dataset.root, "--split", "train", "--out", out]
    words += ["--params", repo / "params.yaml", "--workspace", out.parent, "--no-track"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert val([str(word) for word in words]) == 0
    finally:
        torch.set_num_threads(threads)
    return out


@pytest.fixture(scope="module")
def evaluation(folder: Path, dataset: DetectionDataset) -> Evaluation:
    return judge(dataset, "train", 640, read_results(folder / "detections.json", dataset, "train"))


def test_val_reports_what_is_documented(folder: Path) -> None:
    """The column "here" of docs/parity.md."""
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["image_size"], metrics["batch_size"], metrics["shape"]) == (640, 1, "rectangular")
    assert (metrics["confidence"], metrics["iou"], metrics["images"]) == (0.001, 0.65, 128)
    assert metrics["built_in"]["map50"] == pytest.approx(0.5480, abs=5e-4)
    assert metrics["built_in"]["map"] == pytest.approx(0.3494, abs=5e-4)
    assert metrics["coco"]["ap"] == pytest.approx(0.3604, abs=5e-4)
    assert metrics["coco"]["ap50"] == pytest.approx(0.5557, abs=5e-4)


def test_the_data_is_what_was_measured(dataset: DetectionDataset) -> None:
    assert (dataset.splits["train"].images, dataset.splits["train"].boxes) == (128, 929)


def test_built_in_map(evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    assert metrics.map50 == pytest.approx(0.5478, abs=0.003)
    assert metrics.map == pytest.approx(0.3483, abs=0.003)
    assert len(metrics.classes) == 71


def test_precision_and_recall(evaluation: Evaluation) -> None:
    assert evaluation.metrics.precision == pytest.approx(0.6577, abs=0.003)
    assert evaluation.metrics.recall == pytest.approx(0.4785, abs=0.003)


def test_number_of_detections(evaluation: Evaluation, dataset: DetectionDataset) -> None:
    assert len(evaluation.detections) == pytest.approx(29_361, rel=0.002)
    assert {row["category_id"] for row in evaluation.detections} <= set(dataset.category_ids)


def test_the_official_tool_reads_the_results_and_agrees(folder: Path, dataset: DetectionDataset) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_file("train")))
        official = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
        official.evaluate()
        official.accumulate()
        official.summarize()
    ours = json.loads((folder / "metrics.json").read_text())["coco"]
    assert list(ours.values()) == pytest.approx(official.stats.tolist(), abs=1e-6)


def test_the_official_coco_evaluation_runs_about_a_point_higher(evaluation: Evaluation) -> None:
    coco = evaluation.coco()
    assert 0.005 < coco.ap - evaluation.metrics.map < 0.015
    assert 0.005 < coco.ap50 - evaluation.metrics.map50 < 0.015


def test_most_confident_detections_are_of_the_right_class(evaluation: Evaluation) -> None:
    matrix = evaluation.confusion.matrix
    assert matrix[:, :80].sum() == 929
    paired = matrix[:80, :80]
    assert paired.trace() > 0.85 * paired.sum()
