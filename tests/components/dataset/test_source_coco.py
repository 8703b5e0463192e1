"""COCO folders: what is read, and what is a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from components.dataset.sources.coco import read_coco
from components.dataset.sources.detect import read_source
from components.dataset.sources.masks import outlines
from components.dataset.work import materialise
from yolo_core.errors import DataError, UsageError

from .conftest import Make, Write, annotation, picture


def test_categories_boxes_and_polygons_are_kept(coco: Write) -> None:
    source = read_source(coco(), "auto")
    assert source.layout == "coco"
    assert (source.classes.names, source.classes.category_ids) == (("dog", "cat"), (1, 3))
    first, second = source.splits["train"]
    assert (first.file_name, second.file_name) == ("a.jpg", "b.jpg")
    assert not second.boxes
    (box,) = first.boxes
    assert (box.class_index, box.box, box.area, box.crowd) == (1, (5, 6, 10, 8), 70, False)
    assert [list(polygon) for polygon in box.segmentation] == [[5, 6, 15, 6, 15, 14]]


def test_a_box_outside_its_image_is_for_the_validation_to_judge(coco: Write) -> None:
    boxes = [annotation(bbox=[-3, 0, 90, 8]), annotation(id=2, bbox=[5, 6, 0, 8])]
    assert [box.box[2] for box in read_coco(coco(boxes)).splits["train"][0].boxes] == [90, 0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"category_id": 2}, "annotation 1 of image 7: category 2 is not listed"),
        ({"image_id": 8}, "annotation 1 names image 8, not listed"),
        ({"bbox": [1, 2, float("nan"), 4]}, "is not four finite numbers"),
        ({"bbox": [1, 2, 3]}, "is not four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "negative size -3 x 4"),
        ({"segmentation": [[1, 2, 3]]}, "a polygon is not a list of finite x, y pairs"),
        ({"segmentation": {"size": [30, 40], "counts": [7]}}, "its run-length mask cannot be read"),
    ],
)
def test_faults_of_annotations(coco: Write, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=r"instances_train2017\.json") as caught:
        read_coco(coco([annotation(**changes)]))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ({"file_name": "c.jpg"}, "image 7: file 'c.jpg' is missing; looked in train2017"),
        ({"file_name": "../a.jpg"}, "file_name '../a.jpg' leaves its folder"),
        ({"file_name": "/etc/a.jpg"}, "file_name '/etc/a.jpg' leaves its folder"),
        ({"file_name": None}, "image 7: has no file_name"),
        ({"width": 41}, "image 7: annotated as 41x30, but it is 40x30"),
    ],
)
def test_faults_of_images(coco: Write, image: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(coco(images=[{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30, **image}]))
    assert problem in str(caught.value)


def test_at_most_ten_faults_are_listed_in_two_lines(coco: Write) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(coco([annotation(id=number, category_id=99) for number in range(1, 14)]))
    head, listed = str(caught.value).splitlines()
    assert head.startswith("13 faults in ")
    assert listed.count("category 99") == 10
    assert listed.endswith("and 3 more")


def test_broken_json_and_foreign_json(coco: Write) -> None:
    root = coco()
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(DataError, match=r"train2017\.json is not valid JSON"):
        read_coco(root)
    path.write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(DataError, match="lacks the list 'categories'"):
        read_coco(root)


def test_an_image_that_does_not_decode(coco: Write) -> None:
    root = coco()
    (root / "train2017" / "a.jpg").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"train2017/a.jpg: does not decode as an image"):
        read_coco(root)


def test_splits_follow_the_file_names(coco: Write) -> None:
    root = coco()
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (root / "annotations" / "captions_val2017.json").write_text("{}")
    picture(root / "val2017" / "a.jpg", seed=5)
    picture(root / "val2017" / "b.jpg", seed=6)
    source = read_coco(root)
    assert list(source.splits) == ["train", "val"]
    assert source.splits["val"][0].content == root / "val2017" / "a.jpg"


def test_two_files_of_one_split_and_none_of_train(coco: Write) -> None:
    root = coco()
    path = root / "annotations" / "instances_train2017.json"
    (root / "annotations" / "instances_train2014.json").write_text(path.read_text())
    with pytest.raises(UsageError, match="both are 'train'"):
        read_coco(root)
    (root / "annotations" / "instances_train2014.json").unlink()
    path.rename(root / "annotations" / "instances_val2017.json")
    with pytest.raises(UsageError, match="no annotations for training; found val"):
        read_coco(root)


def test_categories_of_the_splits_must_agree(coco: Write) -> None:
    root = coco()
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    content["categories"][0]["name"] = "lion"
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="have different categories"):
        read_coco(root)


def test_annotations_beside_the_images(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [annotation(image_id=1, category_id=0)],
        "categories": [{"id": 0, "name": "cat"}],
    }
    for folder, seed in (("train", 1), ("valid", 2)):
        picture(tmp_path / folder / "a.jpg", seed=seed)
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(content))
    source = read_source(tmp_path, "auto")
    assert list(source.splits) == ["train", "val"]
    assert source.splits["val"][0].content == tmp_path / "valid" / "a.jpg"
    assert source.classes.category_ids == (0,)


def test_a_canonical_folder_is_read_back_as_it_was(tmp_path: Path, config: Make) -> None:
    first = materialise(config(), tmp_path / "one")
    again = materialise(config(source=str(first.root)), tmp_path / "two")
    assert again.digest == first.digest


def test_a_canonical_folder_in_shards_is_read_back(tmp_path: Path, config: Make) -> None:
    first = materialise(config(shard_above=0), tmp_path / "one")
    assert first.shards and not (first.root / "images").exists()
    for shard_above in (0, 10_000):
        asked = config(source=str(first.root), shard_above=shard_above)
        again = materialise(asked, tmp_path / f"above {shard_above}")
        assert again.digest == first.digest and bool(again.shards) == (shard_above == 0)
        assert again.name == "one"


def mask(seed: int) -> np.ndarray:
    """Return a mask of one blob, (60, 80)."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((60, 80), np.uint8)
    centre = (int(rng.integers(25, 55)), int(rng.integers(20, 40)))
    cv2.ellipse(pixels, centre, (20, 9), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    return pixels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("compressed", [True, False])
def test_masks_become_outlines(seed: int, compressed: bool) -> None:
    """Encoded by pycocotools, read by us: the outline covers the same pixels."""
    pixels = mask(seed)
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(pixels))
        found = outlines({"size": encoded["size"], "counts": encoded["counts"].decode()})
    else:
        flat = pixels.T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        found = outlines({"size": [60, 80], "counts": runs})
    assert found is not None and len(found) == 1
    merged = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(found, 60, 80)))
    union = np.logical_or(merged, pixels).sum()
    assert np.logical_and(merged, pixels).sum() / union > 0.9


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [2, 2], "counts": [1, 1]},
        {"size": [2, 2], "counts": "~~"},
        {"size": [2], "counts": [4]},
        {"counts": [4]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": None},
    ],
)
def test_broken_masks(broken: dict[str, Any]) -> None:
    assert outlines(broken) is None


def test_the_mask_of_a_crowd_stays(coco: Write) -> None:
    encoded = coco_mask.encode(np.asfortranarray(mask(0)[:30, :40]))
    counts = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    (box,) = read_coco(coco([annotation(iscrowd=1, segmentation=counts)])).splits["train"][0].boxes
    assert box.crowd and box.segmentation == counts
    (box,) = read_coco(coco([annotation(segmentation=counts)])).splits["train"][0].boxes
    assert isinstance(box.segmentation, list) and len(box.segmentation[0]) > 10
