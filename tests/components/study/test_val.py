"""``val`` from the command line: its table, its folder, its run, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from selenium import webdriver

from components.study.val.command import val as run_val
from components.study.val.pictures import PICTURES
from tests.components.browsing import asked_for
from yolo_core.data.coco import ClassTable, SourceBox, SourceImage, open_dataset, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.engine.evaluate import EvalSettings, evaluate
from yolo_core.model.graph import create_model
from yolo_core.model.weights import load_checkpoint, save_checkpoint

Launch = Callable[..., Any]
TWELVE = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
TWELVE += ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")
FILES = {
    "metrics.json",
    "detections.json",
    "precision_recall.csv",
    "confidence.csv",
    "report.html",
    "pictures",
}


@pytest.fixture(scope="session")
def crowded(coco128: tuple[list[SourceImage], ClassTable], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs of COCO whose largest boxes are crowds and whose areas are those of outlines."""
    images, classes = coco128
    chosen = [
        SourceImage(
            file_name=image.file_name, content=image.content, boxes=[_altered(box) for box in image.boxes]
        )
        for image in images[:12]
    ]
    unlabelled = [SourceImage(file_name=image.file_name, content=image.content) for image in images[:2]]
    root = tmp_path_factory.mktemp("crowded") / "dataset"
    write_dataset(
        root, {"train": chosen, "val": chosen, "test": unlabelled}, classes, name="crowds", source="COCO128"
    )
    return root


def _altered(box: SourceBox) -> SourceBox:
    width, height = box.box[2:]
    return SourceBox(
        class_index=box.class_index, box=box.box, area=0.6 * width * height, crowd=width * height > 60_000
    )


@pytest.fixture(scope="module")
def weights(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "yolov5n.safetensors"
    save_checkpoint(load_checkpoint(assets / "weights/yolov5n.pt"), path, {"image_size": 320})
    return path


@pytest.fixture(scope="module")
def measured(weights: Path, crowded: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one ``val`` on the crowded photographs, with what it printed in ``printed``."""
    root = tmp_path_factory.mktemp("measured")
    words = ["--params", repo / "params.yaml", "--workspace", root, "--data", crowded, "--out", root / "out"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_val([str(word) for word in (weights, *words, "--no-track")]) == 0
    (root / "printed").write_text(printed.getvalue())
    return root / "out"


@pytest.fixture
def val(launch: Launch, workspace: Path, squares: Path) -> Launch:
    """Run ``val MODEL`` in a fresh workspace, by default on the drawn squares, untracked, into ``out``."""

    def run(model: object, *more: object, data: Path = squares) -> Any:
        fixed = ("--params", workspace / "params.yaml", "--workspace", workspace, "--data", data)
        return launch("val", model, *fixed, "--out", workspace / "out", "--no-track", *more)

    return run


@pytest.fixture(scope="module")
def fresh(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights that know the squares' classes."""
    path = tmp_path_factory.mktemp("fresh") / "yolov5n.safetensors"
    model = create_model("yolov5n", 2, names=open_dataset(squares).names)
    save_checkpoint(model, path, {"image_size": 64})
    return path


def official(annotations: Path, results: Path) -> list[float]:
    """The twelve figures by COCO's own tool, from files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_the_folder_holds_all_and_the_official_tool_agrees(measured: Path, crowded: Path) -> None:
    assert {path.name for path in measured.iterdir()} == FILES
    assert {path.name for path in (measured / "pictures").iterdir()} == set(PICTURES)
    for name in PICTURES:
        assert cv2.imread(str(measured / "pictures" / name)).std() > 5, name
    metrics = json.loads((measured / "metrics.json").read_text())
    assert (metrics["image_size"], metrics["split"], metrics["images"]) == (320, "val", 12)
    expected = official(crowded / "annotations/val.json", measured / "detections.json")
    assert [metrics["coco"][key] for key in TWELVE] == pytest.approx(expected, abs=1e-6)
    assert min(expected) > 0 and metrics["errors"]["ap50"] == pytest.approx(expected[1], abs=1e-3)
    # Our annotations carry what the official tool needs: crowds, and areas that are not those of the boxes.
    rows = json.loads((crowded / "annotations/val.json").read_text())["annotations"]
    assert 0 < sum(row["iscrowd"] for row in rows) < len(rows)
    assert all(row["area"] == pytest.approx(0.6 * row["bbox"][2] * row["bbox"][3]) for row in rows)


def test_the_figures_are_those_of_evaluate(measured: Path, crowded: Path, weights: Path) -> None:
    evaluation = evaluate(
        load_checkpoint(weights).fuse(), open_dataset(crowded), "val", EvalSettings(image_size=320)
    )
    metrics = json.loads((measured / "metrics.json").read_text())
    for key in ("map", "map50", "precision", "recall", "f1", "best_confidence"):
        assert metrics["built_in"][key] == pytest.approx(getattr(evaluation.metrics, key), abs=1e-5)
    assert len(metrics["per_class"]) == 80
    counted = {row["name"]: row for row in metrics["per_class"] if row["instances"]}
    for row in evaluation.metrics.per_class(evaluation.dataset.names):
        assert counted.pop(str(row["name"]))["map"] == pytest.approx(row["ap"], abs=1e-5)
    assert not counted
    never = next(row for row in metrics["per_class"] if row["name"] == "toaster")
    assert never["map"] is never["precision"] is never["coco_ap"] is None


def test_the_table_shows_every_class_and_where_the_page_is(measured: Path, crowded: Path) -> None:
    lines = measured.with_name("printed").read_text().splitlines()
    assert lines[0] == "yolov5n on crowds, split val: 12 images at 320 px"
    rows = json.loads((crowded / "annotations/val.json").read_text())["annotations"]
    classes = {row["category_id"] for row in rows if not row["iscrowd"]}
    assert lines[1].split()[:5] == ["class", "boxes", "P", "R", "F1"] and lines[2].startswith("all ")
    assert len({len(line) for line in lines[1 : 3 + len(classes)]}) == 1  # columns stand below each other
    assert lines[-1] == f"report: {measured / 'report.html'}"
    for word in ("COCO recall: AR1 ", "localisation ", "calibration error ", "speed: preparation "):
        assert any(word in line for line in lines)


def test_the_page_needs_nothing_else(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    assert page.count('src="data:image/') == page.count("<img") == len(PICTURES)
    for outside in ("http://", "https://", "<link", "@import", "<script src"):
        assert outside not in page
    assert page.count('<tr><td data-value="') > 80  # a row per class


def test_the_page_asks_for_nothing_and_shows_its_pictures(measured: Path, browser: webdriver.Chrome) -> None:
    page = (measured / "report.html").as_uri()
    asked_for(browser)
    browser.get(page)
    assert [url for url in asked_for(browser) if not url.startswith("data:")] == [page]
    assert browser.get_log("browser") == []
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == len(PICTURES) and min(sizes) >= 300


def test_results_made_elsewhere_give_the_same_figures(val: Launch, measured: Path, crowded: Path) -> None:
    first = json.loads((measured / "metrics.json").read_text())
    again = val(measured / "detections.json", "--json", data=crowded).result["metrics"]
    for key, value in first["built_in"].items():
        assert again[key] == pytest.approx(value, abs=1e-4), key
    for key, value in first["coco"].items():
        assert again[f"coco_{key}"] == pytest.approx(value, abs=1e-6), key


def test_a_run_holds_the_figures_tags_and_files(
    launch: Launch, workspace: Path, squares: Path, fresh: Path
) -> None:
    words = ("val", fresh, "--data", squares, "--params", workspace / "params.yaml", "--workspace", workspace)
    results = [launch(*words, "--image-size", size, "--json").result for size in (64, 64, 96)]
    first, again, larger = (result["mlflow_run_id"] for result in results)
    assert first == again != larger  # the same evaluation again goes on in its run
    client = mlflow.MlflowClient(results[0]["mlflow_uri"])
    run = client.get_run(first)
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert tags["evaluation.split"] == "val" and tags["model.source"] == str(fresh)
    assert tags["model.digest"] == results[0]["about"]["model_digest"]
    assert tags["dataset.digest"] == open_dataset(squares).digest
    assert tags["mlflow.parentRunId"] == client.get_run(larger).data.tags["mlflow.parentRunId"]
    for key in ("map", "coco_ap", "coco_ar_100", "calibration_error", "ap50_cost_missed"):
        assert run.data.metrics[key] == pytest.approx(results[0]["metrics"][key])
    assert {Path(item.path).name for item in client.list_artifacts(first, "val")} == FILES
    out = Path(results[0]["out"])
    assert out.parent == workspace / "runs/val" and out.name.startswith("yolov5n-val-")


def test_images_set_aside_do_not_count(val: Launch, tmp_path: Path, squares: Path, fresh: Path) -> None:
    data = tmp_path / "data/dataset"
    shutil.copytree(squares, data)
    name = json.loads((data / "annotations/val.json").read_text())["images"][0]["file_name"]
    write_quarantine(data, open_dataset(data).digest, {f"images/{name}": ["blurred"]})
    assert val(fresh, "--json", data=data).result["about"]["images"] == 7


def test_nothing_found_scores_zero_and_is_told(
    val: Launch, fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished = val(fresh, "--confidence", 0.9, "--json")
    assert finished.code == 0 and "detects nothing at all" in caplog.text
    figures = finished.result["metrics"]
    zeros = ("map", "map50", "precision", "recall", "f1", "best_confidence", "coco_ap", "coco_ar_100")
    assert all(figures[key] == 0 for key in (*zeros, "calibration_error"))
    assert figures["ap50_cost_missed"] == 1 and figures["ap50_cost_background"] == 0


def test_empty_results_score_zero(val: Launch, workspace: Path) -> None:
    (workspace / "none.json").write_text("[]")
    finished = val(workspace / "none.json", "--json")
    assert finished.code == 0, finished.err
    assert finished.result["metrics"]["map"] == finished.result["metrics"]["coco_ap"] == 0


def test_weights_that_are_not_numbers_find_nothing(
    val: Launch, workspace: Path, fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_checkpoint(fresh)
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    save_checkpoint(model, workspace / "nan.safetensors", {"image_size": 64})
    finished = val(workspace / "nan.safetensors", "--json")
    assert finished.code == 0 and finished.result["metrics"]["coco_ap"] == 0
    assert "detects nothing at all" in caplog.text


GOOD = {"image_id": 13, "category_id": 1, "bbox": [1.0, 2.0, 30.0, 40.0], "score": 0.5}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 999}, "detections name image 999, which split 'val' of crowds does not list"),
        ({"category_id": 12}, "detections name category 12, which split 'val' of crowds does not list"),
        (
            {"score": float("nan")},
            "detection 0, on image 13: box [1.0, 2.0, 30.0, 40.0] or score nan is not finite",
        ),
        ({"bbox": [1, 2, float("inf"), 4]}, "is not finite"),
        ({"bbox": [1, 2, 3]}, "detection 0 is no COCO result (ValueError"),
        ({"score": "high"}, "detection 0 is no COCO result (TypeError"),
        ({"score": None}, "detection 0 is no COCO result (TypeError"),
    ],
)
def test_results_that_do_not_fit_are_named(
    val: Launch, workspace: Path, crowded: Path, change: dict[str, Any], said: str
) -> None:
    assert 13 in {
        image["id"] for image in json.loads((crowded / "annotations/val.json").read_text())["images"]
    }
    path = workspace / "results.json"
    path.write_text(json.dumps([{**GOOD, **change}]))
    finished = val(path, data=crowded)
    assert finished.code == 1 and said in finished.complaint and "results.json" in finished.complaint


@pytest.mark.parametrize(("text", "code"), [("{", 1), ('{"a": 1}', 1), ("[1]", 1)])
def test_a_file_that_holds_no_results_is_named(val: Launch, workspace: Path, text: str, code: int) -> None:
    (workspace / "results.json").write_text(text)
    finished = val(workspace / "results.json")
    assert finished.code == code and "results.json" in finished.complaint


@pytest.mark.parametrize(
    ("model", "more", "code", "said"),
    [
        ("nowhere.pt", (), 2, "no model at nowhere.pt"),
        ("nowhere.json", (), 2, "no COCO results at nowhere.json"),
        ("{weights}", ("--split", "test"), 1, "split 'test' of crowds has no boxes to measure against"),
        ("{weights}", ("--split", "holdout"), 1, "no split 'holdout'; it has train, val, test"),
        ("{weights}", ("--data", "nowhere"), 1, "nowhere/dataset.json is missing"),
        ("{weights}", ("--out", "/proc/nothing"), 2, "/proc/nothing cannot be written"),
        ("{weights}", ("--batch-size", "0"), 2, "batch_size must be 1 or more"),
        ("{weights}", ("--confidence", "2"), 2, "confidence must lie"),
        ("{weights}", ("--image-size", "-5"), 2, "image_size must be 1 or more"),
        ("{weights}", ("--precision", "int8"), 2, "--precision"),
        ("models:/detector@champion", (), 2, "nothing at models:/detector@champion in MLflow"),
        ("models:/detector@champion", ("--set", "tracking.uri=http://127.0.0.1:9"), 3, "does not answer"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    val: Launch, weights: Path, crowded: Path, model: str, more: tuple[str, ...], code: int, said: str
) -> None:
    finished = val(model.format(weights=weights), *more, data=crowded)
    assert finished.code == code and said in finished.complaint


def test_a_server_that_is_down_is_said_before_anything_is_measured(
    launch: Launch, workspace: Path, crowded: Path, weights: Path
) -> None:
    words = ("--data", crowded, "--params", workspace / "params.yaml", "--workspace", workspace)
    finished = launch("val", weights, *words, "--set", "tracking.uri=http://127.0.0.1:9")
    assert finished.code == 3 and "MLflow at http://127.0.0.1:9 does not answer" in finished.complaint
    assert not (workspace / "runs").exists()


def test_an_image_that_is_missing_is_named(val: Launch, tmp_path: Path, crowded: Path, weights: Path) -> None:
    data = tmp_path / "data/dataset"
    shutil.copytree(crowded, data)
    gone = next((data / "images/val").iterdir())
    gone.unlink()
    finished = val(weights, data=data)
    assert finished.code == 1 and gone.name in finished.complaint


def test_boxes_that_are_not_numbers_are_refused(crowded: Path) -> None:
    from components.study.val.findings import examine
    from yolo_core.engine.evaluate import judge
    from yolo_core.errors import DataError

    rows = {13: np.array([[1, 2, np.nan, 4, 0.9, 0]], np.float32)}
    with pytest.raises(
        DataError, match=r"on image 13: box \[1.0, 2.0, nan, 2.0\] or score 0.9 is not finite"
    ):
        examine(judge(open_dataset(crowded), "val", 320, rows))


def test_one_class_never_seen_and_one_never_predicted(val: Launch, workspace: Path) -> None:
    picture = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    boxes = [
        SourceBox(class_index=0, box=(5.0, 5.0, 20.0, 20.0)),
        SourceBox(class_index=1, box=(30.0, 30.0, 20.0, 20.0)),
    ]
    image = SourceImage(file_name="a.png", content=picture, boxes=boxes)
    data = workspace / "three"
    classes = ClassTable(
        names=("found", "missed", "absent"), category_ids=(4, 2, 9)
    )  # not in the order of the ids
    write_dataset(data, {"train": [image], "val": [image]}, classes, name="three", source="drawn")
    image_id = json.loads((data / "annotations/val.json").read_text())["images"][0]["id"]
    results = [{"image_id": image_id, "category_id": 4, "bbox": [5, 5, 20, 20], "score": 0.9}]
    results.append({"image_id": image_id, "category_id": 9, "bbox": [5, 40, 10, 10], "score": 0.8})
    (workspace / "results.json").write_text(json.dumps(results))
    finished = val(workspace / "results.json", "--json", data=data)
    assert finished.code == 0, finished.err
    rows = json.loads((workspace / "out/metrics.json").read_text())["per_class"]
    by_name = {row["name"]: (row["instances"], row["coco_ap"], row["map"]) for row in rows}
    assert by_name == {"found": (1, 1.0, 0.995), "missed": (1, 0.0, 0.0), "absent": (0, None, None)}
    assert finished.result["metrics"]["coco_ap"] == 0.5
    # What is found of a class without truths is still an error that is counted.
    errors = json.loads((workspace / "out/metrics.json").read_text())["errors"]["kinds"]
    assert errors["background"]["count"] == errors["missed"]["count"] == 1
