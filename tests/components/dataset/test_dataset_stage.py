"""The dataset stage from the command line, and the contact sheet."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import cv2
import pytest

from components.dataset.plots import count_boxes
from components.dataset.preview import preview
from components.dataset.work import materialise
from components.plots import plot_classes
from yolo_core.data.coco import open_dataset
from yolo_core.errors import DataError, UsageError

from .conftest import Launch, Make, Write, annotation

TINY = [f"--set=dataset.builtin.{split}_images={n}" for split, n in (("train", 4), ("val", 2), ("test", 2))]


def test_the_stage_writes_the_folder_and_tracks_it(launch: Launch, workspace: Path) -> None:
    done = launch("dataset", "--params", workspace / "params.yaml", "--workspace", workspace, *TINY, "--json")
    assert done.code == 0, done.err
    result = done.result["result"]
    dataset = open_dataset(workspace / "data" / "dataset")
    assert result["digest"] == dataset.digest
    assert result["splits"]["train"]["images"] == 4
    artifacts = {path.name for path in (workspace / "mlartifacts").rglob("*.*")}
    assert {"classes.png", "train.jpg", "val.jpg", "test.jpg"} <= artifacts
    with sqlite3.connect(workspace / "mlflow.db") as store:
        inputs = store.execute("select name, digest from datasets").fetchall()
        metrics = dict(store.execute("select key, value from latest_metrics").fetchall())
    assert inputs == [("builtin", dataset.digest.removeprefix("sha256:")[:36])]
    assert metrics["train_images"] == 4 and metrics["test_boxes"] == dataset.splits["test"].boxes


def test_a_wrong_source_is_wrong_usage(launch: Launch, workspace: Path) -> None:
    line = ("dataset", "--params", workspace / "params.yaml", "--workspace", workspace)
    done = launch(*line, "--set=dataset.source=/no/such/folder")
    assert done.code == 2
    assert "/no/such/folder does not exist" in done.complaint


def test_a_fault_leaves_nothing_half_written(launch: Launch, workspace: Path, coco: Write) -> None:
    root = coco([annotation(), annotation(id=2, category_id=99)])
    line = ("dataset", "--params", workspace / "params.yaml", "--workspace", workspace)
    done = launch(*line, f"--set=dataset.source={root}", "--set=dataset.test_fraction=0")
    assert done.code == 1
    assert "annotation 2 of image 7: category 99 is not listed" in done.complaint
    assert not any((workspace / "data").iterdir())


def test_the_source_is_named_but_not_digested(tmp_path: Path, coco: Write, config: Make) -> None:
    root = coco()
    first = materialise(config(source=str(root)), tmp_path / "one")
    moved = root.rename(tmp_path / "elsewhere")
    second = materialise(config(source=str(moved)), tmp_path / "two")
    assert first.digest == second.digest
    about = json.loads((tmp_path / "two" / "dataset.json").read_text())
    assert about["source"] == str(moved) and about["name"] == "elsewhere"


def test_preview_draws_a_sheet(tmp_path: Path, config: Make) -> None:
    dataset = materialise(config(), tmp_path / "data")
    target = preview(dataset.root, tmp_path / "sheet.png", count=2)
    sheet = cv2.imread(str(target))
    assert sheet.shape == (336, 664, 3)
    assert len({tuple(pixel) for pixel in sheet.reshape(-1, 3)[::97].tolist()}) > 100
    all_of_it = cv2.imread(str(preview(dataset.root, tmp_path / "all.jpg", count=99)))
    assert all_of_it.shape == (664, 664, 3)  # 3 images, 2 by 2


def test_preview_complains_clearly(tmp_path: Path, config: Make) -> None:
    dataset = materialise(config(), tmp_path / "data")
    with pytest.raises(UsageError, match=r"must end in .png"):
        preview(dataset.root, tmp_path / "sheet.gif")
    with pytest.raises(UsageError, match="there is no folder"):
        preview(dataset.root, tmp_path / "none" / "sheet.png")
    with pytest.raises(UsageError, match="at least 1 image"):
        preview(dataset.root, tmp_path / "sheet.png", count=0)
    with pytest.raises(DataError, match="has no split"):
        preview(dataset.root, tmp_path / "sheet.png", split="tset")


def test_preview_shows_crowds_and_faraway_boxes(tmp_path: Path, coco: Write, config: Make) -> None:
    boxes = [annotation(iscrowd=1, bbox=[-500, -500, 2000, 2000]), annotation(id=2, bbox=[35, 28, 5, 2])]
    dataset = materialise(config(source=str(coco(boxes))), tmp_path / "data")
    assert preview(dataset.root, tmp_path / "sheet.png").is_file()


def test_boxes_are_counted_per_class(tmp_path: Path, coco: Write, config: Make) -> None:
    dataset = materialise(config(source=str(coco([annotation(), annotation(id=2)]))), tmp_path / "data")
    counts = count_boxes(dataset)
    assert counts == {"train": [0, 2]}
    plot_classes(dataset.names, counts, tmp_path / "classes.png")
    assert (tmp_path / "classes.png").stat().st_size > 1000
