"""What changed between two versions: planted changes are found, each as what it is, and nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dataset.diff import _pair_boxes, _Truth, describe, diff
from yolo_core.data.coco import SourceBox, SourceImage, class_table, write_dataset
from yolo_core.data.images import probe_size
from yolo_core.errors import DataError

from .conftest import Launch, picture

Splits = dict[str, list[SourceImage]]
NAMES = ["cat", "dog", "bird"]


def box(index: int, *corner: float, **changes: Any) -> SourceBox:
    return SourceBox(class_index=index, box=corner, **changes)  # type: ignore[arg-type]


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    paths = [picture(tmp_path / "src" / f"{seed}.png", seed=seed) for seed in range(8)]
    images = [
        SourceImage(
            file_name=path.name,
            content=path.read_bytes(),
            boxes=[box(0, 2, 3, 10, 8, segmentation=[[2, 3, 12, 3, 12, 11]]), box(1, 20, 10, 8, 9)],
        )
        for path in paths
    ]
    return {"train": images[:5], "val": images[5:]}


def write(root: Path, splits: Splits, names: list[str] = NAMES, **options: Any) -> Path:
    return write_dataset(root, splits, class_table(names), name="zoo", source="t", **options).root


def change(splits: Splits, split: str, number: int, **values: Any) -> Splits:
    images = list(splits[split])
    images[number] = replace(images[number], **values)
    return {**splits, split: images}


def test_equal_versions_are_the_same_however_they_are_stored(tmp_path: Path, splits: Splits) -> None:
    report = diff(write(tmp_path / "a", splits), write(tmp_path / "b", splits, shard_bytes=4000))
    assert report["same"] and report["old"]["digest"] == report["new"]["digest"]
    assert list(describe(report))[-1] == "the same images, boxes and classes"


def test_images_are_added_removed_changed_and_moved(tmp_path: Path, splits: Splits) -> None:
    new = change(splits, "train", 0, content=picture(tmp_path / "other.png", seed=77).read_bytes())
    added = replace(splits["train"][0], file_name="new.png", content=picture(tmp_path / "n.png", seed=9))
    new = {"train": [*new["train"][:3], added], "val": [*new["val"], splits["train"][3]]}
    report = diff(write(tmp_path / "a", splits), write(tmp_path / "b", new))
    assert report["images"] == {
        "added": ["images/train/new.png"],
        "removed": ["images/train/4.png"],
        "changed": ["images/train/0.png"],
        "moved": [{"old": "images/train/3.png", "new": "images/val/3.png"}],
    }
    assert report["boxes"]["by_image"] == [] and report["boxes"]["added"] == 0
    assert report["boxes"]["by_class"]["cat"] == {"old": 8, "new": 8}
    assert not report["same"]


def test_a_renamed_image_has_moved_and_copies_move_once(tmp_path: Path, splits: Splits) -> None:
    twin = replace(splits["train"][1], file_name="twin.png")
    old = {**splits, "train": [*splits["train"], twin]}
    names = {"1.png": "one.png"}
    renamed = [replace(i, file_name=names.get(i.file_name, i.file_name)) for i in old["train"] if i != twin]
    images = diff(write(tmp_path / "a", old), write(tmp_path / "b", {**splits, "train": renamed}))["images"]
    assert images["moved"] == [{"old": "images/train/1.png", "new": "images/train/one.png"}]
    assert images["removed"] == ["images/train/twin.png"] and images["added"] == []


def test_boxes_are_paired_by_overlap_and_class(tmp_path: Path, splits: Splits) -> None:
    new = change(splits, "train", 0, boxes=[box(0, 3, 3, 10, 8), *splits["train"][0].boxes[1:]])
    new = change(new, "train", 1, boxes=[splits["train"][1].boxes[0], box(2, 20, 10, 8, 9)])
    new = change(new, "train", 2, boxes=splits["train"][2].boxes[:1])
    new = change(new, "val", 0, boxes=[*splits["val"][0].boxes, box(2, 1, 20, 5, 5)])
    new = change(new, "val", 1, boxes=[*splits["val"][1].boxes[:1], box(1, 0, 0, 4, 4)])
    new = change(new, "val", 2, boxes=[box(0, 2, 3, 10, 8), splits["val"][2].boxes[1]])
    boxes = diff(write(tmp_path / "a", splits), write(tmp_path / "b", new))["boxes"]
    assert (boxes["added"], boxes["removed"], boxes["changed"]) == (2, 2, 3)
    found = {item.pop("image"): item for item in boxes["by_image"]}
    (moved,) = found["images/train/0.png"]["changed"]
    assert moved["what"] == ["box", "outline or crowd"] and moved["iou"] == pytest.approx(9 / 11, abs=1e-3)
    assert moved["old"] == {"class": "cat", "box": [2, 3, 10, 8]}
    (renamed,) = found["images/train/1.png"]["changed"]
    assert renamed["what"] == ["class"] and renamed["iou"] == 1
    assert (renamed["old"]["class"], renamed["new"]["class"]) == ("dog", "bird")
    assert found["images/train/2.png"] == {"removed": [{"class": "dog", "box": [20, 10, 8, 9]}]}
    assert found["images/val/5.png"] == {"added": [{"class": "bird", "box": [1, 20, 5, 5]}]}
    assert set(found["images/val/6.png"]) == {"added", "removed"}
    assert found["images/val/7.png"]["changed"][0]["what"] == ["outline or crowd"]
    assert boxes["by_class"]["bird"] == {"old": 0, "new": 2}


def test_classes_are_compared_by_name(tmp_path: Path, splits: Splits) -> None:
    names = ["bird", "cat", "dog", "fox"]
    turned = {
        split: [
            replace(image, boxes=[replace(box, class_index=box.class_index + 1) for box in image.boxes])
            for image in images
        ]
        for split, images in splits.items()
    }
    report = diff(write(tmp_path / "a", splits, [*NAMES, "owl"]), write(tmp_path / "b", turned, names))
    assert report["classes"] == {
        "added": ["fox"],
        "removed": ["owl"],
        "renumbered": ["cat", "dog", "bird"],
    }
    assert report["boxes"]["by_image"] == []  # a cat is a cat under any number


def truths() -> st.SearchStrategy[_Truth]:
    sides = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2)
    boxes = st.lists(st.tuples(st.sampled_from(NAMES), sides, st.integers(0, 1)), max_size=6)
    return boxes.map(
        lambda rows: _Truth(
            classes=[name for name, _, _ in rows],
            boxes=np.array([(x, y, x + w, y + h) for _, (x, y, w, h), _ in rows], float).reshape(-1, 4),
            rest=[rest for _, _, rest in rows],
        )
    )


@given(old=truths(), new=truths())
def test_every_box_is_accounted_for_once(old: _Truth, new: _Truth) -> None:
    there, back = _pair_boxes(old, new), _pair_boxes(new, old)
    count = {kind: len(there.get(kind, [])) for kind in ("added", "removed", "changed")}
    assert len(old.classes) - count["removed"] + count["added"] == len(new.classes)
    assert count["added"] == len(back.get("removed", [])) and count["removed"] == len(back.get("added", []))
    for item in there.get("changed", []):
        assert item["what"] and item["iou"] >= 0.5
    assert _pair_boxes(old, old) == {}
    if sorted(map(repr, old.keys())) == sorted(map(repr, new.keys())):
        assert there == {}  # whatever the order


def test_images_need_not_be_here(tmp_path: Path, splits: Splits) -> None:
    roots = write(tmp_path / "a", splits), write(tmp_path / "b", {"train": splits["train"]}, shard_bytes=4000)
    shutil.rmtree(roots[0] / "images")
    shutil.rmtree(roots[1] / "shards")
    (roots[1] / "shards").mkdir()
    (roots[1] / "shards/index.csv").write_text("")
    assert len(diff(*roots)["images"]["removed"]) == 3


def test_the_command_line_tells_people_and_machines(tmp_path: Path, splits: Splits, launch: Launch) -> None:
    new = change(splits, "train", 1, boxes=[splits["train"][1].boxes[0], box(2, 20, 10, 8, 9)])
    new = {**new, "val": new["val"][:1] + [replace(i, file_name=f"x{i.file_name}") for i in new["val"][1:]]}
    roots = write(tmp_path / "a", splits), write(tmp_path / "b", new)
    done = launch("dataset", "--diff", *roots)
    assert done.code == 0, done.err
    assert "images moved: 2\n  images/val/6.png -> images/val/x6.png" in done.out
    assert "  dog: 8 before, 7 now" in done.out
    assert "images/train/1.png: dog -> bird: class (IoU 1.00)" in done.out
    done = launch("dataset", "--diff", *roots, "--json")
    assert done.result["boxes"]["changed"] == 1 and len(done.result["images"]["moved"]) == 2


def test_long_lists_are_cut_for_people(tmp_path: Path, splits: Splits) -> None:
    many = [replace(splits["train"][0], file_name=f"{number}.png") for number in range(30)]
    report = diff(write(tmp_path / "a", {"train": many[:1]}), write(tmp_path / "b", {"train": many}))
    lines = list(describe(report))
    assert "images added: 29" in lines and "  and 19 more; --json lists them all" in lines
    assert len(lines) < 30 and len(report["images"]["added"]) == 29


def test_what_is_no_dataset_is_named(tmp_path: Path, splits: Splits, launch: Launch) -> None:
    root = write(tmp_path / "a", splits)
    done = launch("dataset", "--diff", root, tmp_path / "none")
    assert done.code == 2 and "none has no dataset.json, so it is no version" in done.complaint
    assert launch("dataset", "--diff", tmp_path, root).code == 2
    assert launch("dataset", "--diff", root).code == 2
    other = write(tmp_path / "b", {"train": splits["train"]})
    path = other / "annotations/train.json"
    for broken in ({"annotations": []}, {"annotations": [{"image_id": 1}], "images": [{"id": 1}]}):
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=r"train\.json is not valid COCO JSON"):
            diff(root, other)


def test_real_annotations_that_are_edited(assets: Path, tmp_path: Path) -> None:
    images = []
    for path in sorted((assets / "coco128_yolo/images").rglob("*.jpg"))[:40]:
        width, height = probe_size(path.read_bytes(), path.name)
        boxes = []
        for line in (assets / f"coco128_yolo/labels/train2017/{path.stem}.txt").read_text().splitlines():
            number, x, y, w, h = map(float, line.split())
            corner = ((x - w / 2) * width, (y - h / 2) * height)
            boxes.append(box(int(number), *corner, w * width, h * height))
        images.append(SourceImage(file_name=path.name, content=path, boxes=boxes))
    names = [str(number) for number in range(80)]
    edited = [
        replace(image, boxes=image.boxes[1:]) if len(image.boxes) > 9 else image for image in images[1:]
    ]
    dropped = sum(len(image.boxes) > 9 for image in images[1:])
    old, new = (
        write(tmp_path / "a", {"train": images}, names),
        write(tmp_path / "b", {"train": edited}, names),
    )
    report = diff(old, new)
    assert report["images"]["removed"] == [f"images/train/{images[0].file_name}"]
    assert dropped > 5 and report["boxes"]["removed"] == dropped
    assert report["boxes"]["added"] == report["boxes"]["changed"] == 0
