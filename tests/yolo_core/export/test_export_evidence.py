"""Checking an export against recorded evidence: equal, damaged, hollow, and one that suppresses inside."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_core.data.coco import ClassTable, DetectionDataset, SourceImage, open_dataset, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.export.backend import Backend, DetectingBackend
from yolo_core.export.limits import EXACT, Enough, Limits, Parity
from yolo_core.export.parity_evidence import Chosen, Evidence, check, record
from yolo_core.export.parity_verdict import Accuracy, Verdict, decide
from yolo_core.metrics.bootstrap import BootstrapSettings
from yolo_core.metrics.nms import NmsSettings, non_max_suppression
from yolo_core.model.graph import DetectionModel

SIZE, COMPARED, JUDGED = 128, 6, 16
INSIDE = NmsSettings(confidence=0.2, iou=0.45)
DRAWS = BootstrapSettings(resamples=100)
LIMITS = Limits(
    max_box_error=0.1, max_score_error=0.001, min_matched=0.99, max_ap_loss=0.003, max_ap50_loss=0.003
)
LOOSE = Limits(min_matched=0.0, max_ap_loss=0.003)
ENOUGH = Enough(images=COMPARED, detections=3, objects=20)


@pytest.fixture(scope="module")
def dataset(
    coco128: tuple[list[SourceImage], ClassTable], tmp_path_factory: pytest.TempPathFactory
) -> DetectionDataset:
    images, table = coco128
    root = tmp_path_factory.mktemp("data") / "dataset"
    splits = {"train": images[:2], "val": images[2 : 2 + JUDGED]}
    write_dataset(root, splits, table, name="photos", source="COCO128")
    write_quarantine(root, "", {})
    return open_dataset(root)


@pytest.fixture(scope="module")
def evidence(
    dataset: DetectionDataset, official: DetectionModel, tmp_path_factory: pytest.TempPathFactory
) -> Evidence:
    """Of the first images of val and, as an export needs no truth to be compared, one of train."""
    val, train = dataset.samples("val"), dataset.samples("train")
    compared = [*(("val", sample) for sample in val[: COMPARED - 1]), ("train", train[0])]
    chosen = Chosen(dataset=dataset, split="val", judged=val, compared=compared)
    folder, seen = tmp_path_factory.mktemp("evidence"), []
    found = record(
        official.eval(), chosen, image_size=SIZE, nms=INSIDE, folder=folder, seen=lambda n: seen.append(n)
    )
    assert sum(seen) == JUDGED + 1
    return found


def backend(run: Callable[[Tensor], Tensor], batch_size: int = 1, **about: Any) -> Backend:
    known = {"format": "test", "names": ["x"] * 80, "stride": [32], "image_size": SIZE}
    made = DetectingBackend if about.get("output") == "detections" else Backend
    return made(run, {**known, "batch_size": batch_size, **about})


def judged(
    evidence: Evidence, subject: Backend, limits: Limits = LIMITS
) -> tuple[Parity, Accuracy | None, Verdict]:
    parity, accuracy = check(evidence, subject, limits.tolerance, DRAWS)
    return parity, accuracy, decide(parity, accuracy, limits, ENOUGH)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_model_itself_passes(evidence: Evidence, official: DetectionModel, batch_size: int) -> None:
    parity, accuracy, verdict = judged(evidence, backend(official, batch_size))
    assert (verdict.kind, verdict.reasons) == ("PASS", ())
    assert (parity.images, parity.matched) == (COMPARED, 1.0)
    assert parity.max_box_error == pytest.approx(0, abs=1e-3)
    assert accuracy is not None
    assert (accuracy.images, accuracy.objects > 20) == (JUDGED, True)
    assert 0.05 < accuracy.ap == pytest.approx(accuracy.pytorch_ap, abs=1e-4)
    assert accuracy.ap < accuracy.ap50
    assert accuracy.difference.low == pytest.approx(0, abs=1e-3)


def damaged(model: DetectionModel, share: float) -> DetectionModel:
    """Change every weight by that share of its size."""
    faulty, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in faulty.parameters():
            weight.mul_(1 + share * torch.randn(weight.shape, generator=generator))
    return faulty


def test_damaged_weights_fail_by_raw_outputs(evidence: Evidence, official: DetectionModel) -> None:
    parity, _, verdict = judged(evidence, backend(damaged(official, 0.01)))
    assert verdict.kind == "FAIL"
    assert verdict.reasons[0].startswith("a box is ")
    assert parity.max_box_error is not None and parity.max_box_error > 1


def test_heavily_damaged_weights_fail_by_ap_alone(evidence: Evidence, official: DetectionModel) -> None:
    """As of int8: no limit on raw outputs, so AP has to see it."""
    _, accuracy, verdict = judged(evidence, backend(damaged(official, 0.5)), LOOSE)
    assert verdict.kind == "FAIL"
    assert verdict.reasons[0].startswith("AP is lower (-0.")
    assert accuracy is not None and accuracy.difference.high < -0.003


def test_outputs_that_are_no_numbers_fail(evidence: Evidence, official: DetectionModel) -> None:
    parity, _, verdict = judged(evidence, backend(lambda images: official(images) * float("nan")))
    assert verdict.kind == "FAIL"
    assert verdict.reasons[:2] == ("a box is inf px off (limit 0.1)", "a score is inf off (limit 0.001)")
    assert parity.matched == 0


def test_a_format_that_suppresses_inside_is_compared_with_the_same_suppression(
    evidence: Evidence, official: DetectionModel
) -> None:
    def run(images: Tensor) -> Tensor:
        found = non_max_suppression(official(images), INSIDE)
        filled = torch.zeros(len(found), INSIDE.max_detections, 6)
        for row, rows in zip(filled, found, strict=True):
            row[: len(rows)] = rows
        return filled

    inside = {"output": "detections", "nms": asdict(INSIDE)}
    parity, accuracy, verdict = judged(evidence, backend(run, 2, **inside))
    assert (verdict.kind, verdict.reasons) == ("PASS", ())
    assert (parity.max_box_error, parity.max_score_error, parity.matched) == (None, None, 1.0)
    assert parity.detections >= 3
    _, full, _ = judged(evidence, backend(official))
    assert accuracy is not None and full is not None
    assert accuracy.pytorch_ap < full.pytorch_ap, "fewer detections are left for the AP"
    _, _, verdict = judged(evidence, backend(lambda images: run(images) * 0.8, 2, **inside))
    assert verdict.kind == "FAIL"


def test_without_truths_there_is_no_ap(
    dataset: DetectionDataset, official: DetectionModel, tmp_path: Path
) -> None:
    chosen = Chosen(dataset=dataset, split="val", judged=(), compared=[("val", dataset.samples("val")[0])])
    evidence = record(official.eval(), chosen, image_size=SIZE, nms=INSIDE, folder=tmp_path)
    parity, accuracy = check(evidence, backend(official), EXACT, DRAWS)
    assert (parity.images, accuracy) == (1, None)
