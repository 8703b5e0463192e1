"""Images that are set aside: nobody who reads the dataset gets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from yolo_core.data.coco import open_dataset
from yolo_core.data.quarantine import quarantine_file, read_quarantine, write_quarantine
from yolo_core.errors import DataError
from yolo_core.metrics.coco_eval import coco_evaluate


@pytest.fixture
def root(tmp_path: Path, squares: Path) -> Path:
    """A copy of the squares."""
    shutil.copytree(squares, tmp_path / "dataset")
    return tmp_path / "dataset"


def test_samples_lack_what_is_set_aside_whatever_is_wrong_with_it(root: Path) -> None:
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    image = content["images"][3]
    for item in content["annotations"]:
        if item["image_id"] == image["id"]:
            del item["id"], item["bbox"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError):
        open_dataset(root).samples("train")
    digest = open_dataset(root).digest
    written = write_quarantine(root, digest, {f"images/{image['file_name']}": ["annotation_complete"]})
    assert written == root.with_name("dataset.quarantine.json")
    dataset = open_dataset(root)
    samples = dataset.samples("train")
    assert len(samples) == 23
    assert image["id"] not in {sample.image_id for sample in samples}
    assert len(dataset.samples("val")) == 8


def test_a_list_of_another_version_says_nothing(root: Path) -> None:
    write_quarantine(root, "sha256:other", {"images/train/000.png": ["image_decodes"]})
    assert open_dataset(root).excluded == frozenset()


def test_a_broken_list_is_an_error(root: Path) -> None:
    for text in ("{", "[]", '{"dataset_digest": "x"}'):
        quarantine_file(root).write_text(text)
        with pytest.raises(DataError, match=r"dataset\.quarantine\.json cannot be read"):
            read_quarantine(root, "x")


def test_the_official_evaluation_does_not_count_it(root: Path) -> None:
    path = root / "annotations" / "val.json"
    content = json.loads(path.read_text())
    hidden = content["images"][0]
    found = [
        {"image_id": item["image_id"], "category_id": item["category_id"], "bbox": item["bbox"], "score": 0.9}
        for item in content["annotations"]
        if item["image_id"] != hidden["id"]
    ]
    assert coco_evaluate(path, found).ap < 0.99
    assert coco_evaluate(path, found, {f"images/{hidden['file_name']}"}).ap == pytest.approx(1.0)
