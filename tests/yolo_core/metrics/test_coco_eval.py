"""The COCO evaluation equals the reference implementation, pycocotools, and says what is wrong."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_core.errors import DataError
from yolo_core.metrics.coco_eval import CocoMetrics, coco_evaluate, coco_report


def draw(seed: int, images: int = 8) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truths of all sizes, some of them crowds, some classes empty; detections of every kind."""
    rng = np.random.default_rng(seed)
    categories = [3, 7, 8, 20]
    truth: dict[str, Any] = {
        "images": [
            {"id": n + 1, "width": 400, "height": 400, "file_name": f"{n}.jpg"} for n in range(images)
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in categories],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, 9)):
            box = [*rng.uniform(0, 250, 2), *rng.choice([10, 50, 130]) * rng.uniform(0.6, 1.4, 2)]
            category = int(rng.choice(categories[:3]))  # the last one is never there
            crowd = int(rng.random() < 0.15)
            number = len(truth["annotations"]) + 1
            truth["annotations"].append(
                {
                    "id": number,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [float(value) for value in box],
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": crowd,
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = np.array(box) + rng.normal(0, 0.06, 4) * [box[2], box[3], box[2], box[3]]
                label = category if rng.random() < 0.8 else int(rng.choice(categories))
                results.append(result(image["id"], label, moved, rng.random()))
        for _ in range(rng.integers(0, 4)):
            results.append(result(image["id"], int(rng.choice(categories)), rng.uniform(5, 200, 4), 0.3))
    return truth, results


def result(image_id: int, category: int, box: Any, score: float) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(value) for value in np.maximum(box, 0.5)],
        "score": float(score),
    }


def reference(path: Path, results: list[dict[str, Any]], category: int | None = None) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in results]), "bbox")
        if category is not None:
            evaluation.params.catIds = [category]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def write(path: Path, truth: dict[str, Any]) -> Path:
    path.write_text(json.dumps(truth))
    return path


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools(tmp_path: Path, seed: int) -> None:
    truth, results = draw(seed)
    path = write(tmp_path / "truth.json", truth)
    assert astuple(coco_evaluate(path, results)) == pytest.approx(reference(path, results), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_each_class_equals_pycocotools_of_that_class_alone(tmp_path: Path, seed: int) -> None:
    truth, results = draw(seed)
    path = write(tmp_path / "truth.json", truth)
    report = coco_report(path, results)
    assert report.overall == coco_evaluate(path, results)
    for category, figures in zip((3, 7, 8, 20), report.classes, strict=True):
        assert astuple(figures) == pytest.approx(reference(path, results, category), abs=1e-6)
    assert report.classes[-1].ap == -1 < report.classes[0].ap


def test_more_than_100_detections_of_an_image_equal_pycocotools(tmp_path: Path) -> None:
    truth, results = draw(99, images=2)
    path = write(tmp_path / "truth.json", truth)
    rng = np.random.default_rng(0)
    results += [result(1, 3, rng.uniform(5, 200, 4), rng.random()) for _ in range(250)]
    assert astuple(coco_evaluate(path, results)) == pytest.approx(reference(path, results), abs=1e-6)


def test_prints_nothing_and_leaves_its_argument_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    truth, results = draw(1)
    before = json.dumps(results)
    coco_evaluate(write(tmp_path / "truth.json", truth), results)
    assert capfd.readouterr() == ("", "")
    assert json.dumps(results) == before


def test_without_detections_it_is_zero_where_there_is_truth(tmp_path: Path) -> None:
    truth, _ = draw(2)
    for annotation in truth["annotations"]:
        annotation["area"], annotation["iscrowd"] = 50.0, 0
    metrics = coco_evaluate(write(tmp_path / "truth.json", truth), [])
    assert (metrics.ap, metrics.ap50, metrics.ap_small, metrics.ar_100) == (0, 0, 0, 0)
    assert metrics.ap_large == metrics.ar_large == -1


def test_without_any_truth_every_figure_is_minus_one(tmp_path: Path) -> None:
    truth, results = draw(3)
    truth["annotations"] = []
    metrics = coco_evaluate(write(tmp_path / "truth.json", truth), results)
    assert metrics == CocoMetrics(**dict.fromkeys(CocoMetrics.__dataclass_fields__, -1.0))


def test_a_detection_on_an_unknown_image_is_named(tmp_path: Path) -> None:
    truth, _ = draw(4)
    path = write(tmp_path / "truth.json", truth)
    with pytest.raises(DataError, match=r"detections name image 77.*truth\.json does not list"):
        coco_evaluate(path, [result(77, 3, [1, 1, 5, 5], 0.5)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category_id": 21}, r"detections name category 21, which .*truth\.json does not list"),
        ({"score": float("nan")}, "detection 0, on image 1: .* or score nan is not finite"),
        ({"score": -float("inf")}, "is not finite"),
        ({"bbox": [1.0, 2.0, float("nan"), 4.0]}, "is not finite"),
        ({"bbox": [1.0, 2.0, 3.0]}, "detection 0 is no COCO result"),
        ({"bbox": None}, "detection 0 is no COCO result"),
        ({"score": "0.5"}, "detection 0 is no COCO result"),
    ],
)
def test_a_detection_that_cannot_be_evaluated_is_named(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = write(tmp_path / "truth.json", draw(4)[0])
    with pytest.raises(DataError, match=said):
        coco_evaluate(path, [{**result(1, 3, [1, 1, 5, 5], 0.5), **change}])


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": [1]}'])
def test_a_broken_annotation_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"truth\.json is not COCO JSON"):
        coco_evaluate(path, [])


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        coco_evaluate(tmp_path / "nowhere.json", [])
