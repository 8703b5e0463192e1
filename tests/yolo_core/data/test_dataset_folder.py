"""The canonical folder: what is written is what is read, and what is broken is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_core.data.coco import (
    DetectionDataset,
    SourceBox,
    SourceImage,
    class_table,
    open_dataset,
    write_dataset,
)
from yolo_core.errors import DataError, UsageError

CLASSES = class_table(["red", "green", "blue"])
Paint = Callable[..., SourceImage]


def write(target: Path, images: list[SourceImage], **splits: list[SourceImage]) -> DetectionDataset:
    return write_dataset(target, {"train": images, **splits}, CLASSES, name="test", source="tests")


def edit_annotations(dataset: DetectionDataset, change: Callable[[dict[str, Any]], None]) -> None:
    path = dataset.annotation_file("train")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(tmp_path: Path, paint: Paint) -> None:
    sources = [paint(seed) for seed in range(4)]
    dataset = write(tmp_path / "d", sources, val=[paint(9, width=120)])
    assert (dataset.name, dataset.names, dataset.category_ids) == (
        "test",
        ("red", "green", "blue"),
        (1, 2, 3),
    )
    assert {name: (info.images, info.boxes) for name, info in dataset.splits.items()} == {
        "train": (4, 12),
        "val": (1, 3),
    }
    for source, sample in zip(sources, dataset.samples("train"), strict=True):
        assert sample.path.read_bytes() == source.content
        assert sample.sha256 == hashlib.sha256(sample.path.read_bytes()).hexdigest()
        assert (sample.width, sample.height) == (96, 64)
        assert sample.classes.tolist() == [0, 1, 2]
        assert not sample.crowd.any()
        for box, expected, polygon in zip(sample.boxes, source.boxes, sample.polygons, strict=True):
            x, y, w, h = expected.box
            np.testing.assert_allclose(box, (x, y, x + w, y + h))
            assert polygon is not None and polygon.shape == (4, 2)
    assert dataset.samples("val")[0].image_id == 5  # ids go on over the splits


def test_coco_file_has_the_fields_that_coco_tools_read(small_folder: DetectionDataset) -> None:
    content = json.loads(small_folder.annotation_file("train").read_text())
    assert content["categories"] == [
        {"id": 3, "name": "red"},
        {"id": 7, "name": "green"},
        {"id": 11, "name": "blue"},
    ]
    assert [image["id"] for image in content["images"]] == [1, 2, 3]
    assert content["images"][0]["file_name"] == "train/0000.png"
    assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, 10))
    first = content["annotations"][0]
    assert first["category_id"] == 3 and first["iscrowd"] == 0
    assert first["area"] == first["bbox"][2] * first["bbox"][3]
    assert [sample.classes.tolist() for sample in small_folder.samples("train")] == [[0, 1, 2]] * 3


def test_manifest_lists_every_image(small_folder: DetectionDataset) -> None:
    lines = (small_folder.root / "manifest.csv").read_text().splitlines()
    assert lines[0] == "path,bytes,sha256,width,height,split"
    rows = small_folder.manifest()
    assert list(rows) == sorted(rows) == [f"images/train/000{i}.png" for i in range(3)]
    for path, row in rows.items():
        content = (small_folder.root / path).read_bytes()
        assert (row.bytes, row.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (row.width, row.height, row.split) == (96, 64, "train")


def test_digest_depends_on_content_only(tmp_path: Path, paint: Paint) -> None:
    images = [paint(seed) for seed in range(3)]
    digest = write(tmp_path / "a", images).digest
    assert digest.startswith("sha256:") and len(digest) == 71
    assert write(tmp_path / "b", images[::-1]).digest == digest
    other_name = write_dataset(tmp_path / "c", {"train": images}, CLASSES, name="x", source="y")
    assert other_name.digest == digest
    by_path = []
    for image in images:
        path = tmp_path / image.file_name
        path.write_bytes(image.content)  # type: ignore[arg-type]
        by_path.append(replace(image, content=path))
    assert write(tmp_path / "d", by_path).digest == digest
    shifted = replace(images[0].boxes[0], box=(1.0, 1.0, 9.0, 9.0))
    changed = [replace(images[0], boxes=[shifted, *images[0].boxes[1:]]), *images[1:]]
    assert write(tmp_path / "e", changed).digest != digest
    renamed = write_dataset(
        tmp_path / "f", {"train": images}, class_table("rgb"), name="test", source="tests"
    )
    assert renamed.digest != digest


def test_same_images_give_the_same_bytes(tmp_path: Path, paint: Paint) -> None:
    images = [paint(seed) for seed in range(3)]
    first, second = write(tmp_path / "a", images), write(tmp_path / "b", images[::-1])
    files = sorted(path.relative_to(first.root) for path in first.root.rglob("*") if path.is_file())
    assert len(files) == 6
    for path in files:
        assert (first.root / path).read_bytes() == (second.root / path).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["../x.png", "/x.png", "a/../../x.png", "a\\x.png", "C:/x.png", "a//x.png", "", "a\n.png", "x.gif"],
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, paint: Paint, name: str) -> None:
    with pytest.raises(DataError):
        write(tmp_path / "d", [replace(paint(0), file_name=name)])
    assert list(tmp_path.iterdir()) == []


def test_folders_inside_a_split_are_kept(tmp_path: Path, paint: Paint) -> None:
    dataset = write(tmp_path / "d", [replace(paint(0), file_name="left/0.png")])
    assert dataset.samples("train")[0].path == tmp_path / "d/images/train/left/0.png"


def test_a_failed_write_leaves_the_old_dataset(tmp_path: Path, paint: Paint) -> None:
    before = write(tmp_path / "d", [paint(0)]).digest
    broken = replace(paint(2), content=b"not an image")
    with pytest.raises(DataError, match=r"0002\.png is not a JPEG or PNG"):
        write(tmp_path / "d", [paint(1), broken])
    assert open_dataset(tmp_path / "d").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    after = write(tmp_path / "d", [paint(1)])
    assert after.digest != before and len(after.samples("train")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_other_peoples_folders_are_not_replaced(tmp_path: Path, paint: Paint) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d", [paint(0)])  # an empty folder is fine
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="is not a dataset"):
        write(tmp_path / "home", [paint(0)])
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (SourceBox(class_index=3, box=(0, 0, 5, 5)), r"0000\.png: class index 3 is outside 0\.\.2"),
        (SourceBox(class_index=-1, box=(0, 0, 5, 5)), "class index -1"),
        (SourceBox(class_index=0, box=(0, float("nan"), 5, 5)), "not a number"),
        (SourceBox(class_index=0, box=(0, 0, 5, 5), segmentation=[[0, 0, float("inf"), 1, 1, 1]]), "polygon"),
    ],
)
def test_impossible_boxes_are_refused(tmp_path: Path, paint: Paint, box: SourceBox, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d", [replace(paint(0), boxes=[box])])


def test_boxes_beyond_the_image_are_kept_for_the_validator(tmp_path: Path, paint: Paint) -> None:
    odd = SourceBox(class_index=0, box=(-5, 10, 500, -3))
    sample = write(tmp_path / "d", [replace(paint(0), boxes=[odd])]).samples("train")[0]
    np.testing.assert_allclose(sample.boxes, [(-5, 10, 495, 7)])


def test_missing_and_double_images(tmp_path: Path, paint: Paint) -> None:
    with pytest.raises(DataError, match="no images"):
        write(tmp_path / "d", [])
    with pytest.raises(DataError, match="two images"):
        write(tmp_path / "d", [paint(0), paint(0)])
    with pytest.raises(DataError, match="cannot be read"):
        write(tmp_path / "d", [replace(paint(0), content=tmp_path / "gone.png")])
    with pytest.raises(DataError, match="splits must be"):
        write_dataset(tmp_path / "d", {"val": [paint(0)]}, CLASSES, name="t", source="t")
    with pytest.raises(DataError, match="splits must be"):
        write(tmp_path / "d", [paint(0)], holdout=[paint(1)])


def test_class_tables_must_be_one_to_one() -> None:
    with pytest.raises(DataError, match="differ"):
        class_table(["a", "a"])
    with pytest.raises(DataError, match="given"):
        class_table([])
    with pytest.raises(DataError, match="category ids"):
        class_table(["a", "b"], [1, 1])
    with pytest.raises(DataError, match="category ids"):
        class_table(["a", "b"], [1])


def test_crowds_areas_and_run_lengths_survive(tmp_path: Path, paint: Paint) -> None:
    runs = {"counts": [0, 5], "size": [64, 96]}
    crowd = SourceBox(class_index=1, box=(1, 2, 30, 40), crowd=True, area=77.5, segmentation=runs)
    dataset = write(tmp_path / "d", [replace(paint(0), boxes=[crowd])])
    annotation = json.loads(dataset.annotation_file("train").read_text())["annotations"][0]
    assert (annotation["iscrowd"], annotation["area"], annotation["segmentation"]) == (1, 77.5, runs)
    sample = dataset.samples("train")[0]
    assert sample.crowd.tolist() == [True] and sample.polygons == (None,)


def test_only_a_polygon_that_spans_its_box_counts(tmp_path: Path, paint: Paint) -> None:
    whole, half, other_half = [0, 0, 20, 0, 20, 20, 0, 20], [0, 0, 9, 0, 9, 20, 0, 20], [12, 0, 20, 0, 20, 20]
    boxes = [
        SourceBox(class_index=0, box=(0, 0, 20, 20), segmentation=parts)
        for parts in ([half, whole], [half, other_half], [[1, 1, 2, 2]], None)
    ]
    polygons = write(tmp_path / "d", [replace(paint(0), boxes=boxes)]).samples("train")[0].polygons
    assert polygons[0] is not None and polygons[0].tolist()[2] == [20, 20]
    assert polygons[1:] == (None, None, None)


def test_real_images_of_coco128(coco128: DetectionDataset) -> None:
    samples = coco128.samples("train")
    assert len(samples) == 128
    assert sum(len(sample.boxes) for sample in samples) == 929
    assert sum(polygon is not None for sample in samples for polygon in sample.polygons) > 600
    assert any(len(sample.boxes) == 0 for sample in samples)


@pytest.mark.parametrize("name", ["dataset.json", "manifest.csv", "annotations/train.json"])
def test_a_missing_file_is_named(small_folder: DetectionDataset, name: str) -> None:
    (small_folder.root / name).unlink()
    with pytest.raises(DataError, match=name):
        open_dataset(small_folder.root)


@pytest.mark.parametrize("content", ["", "{", "[]", "\0", '{"format": 2}', '{"format": 1}'])
def test_a_broken_dataset_file_is_named(small_folder: DetectionDataset, content: str) -> None:
    (small_folder.root / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        open_dataset(small_folder.root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][2].update(category_id=99), "annotation 3 names category 99"),
        (lambda c: c["annotations"][2].update(image_id=99), "annotation 3 names image 99"),
        (lambda c: c.update(images=[]), "lists no images"),
        (lambda c: c.pop("annotations"), "not valid COCO JSON: KeyError 'annotations'"),
        (lambda c: c["annotations"][0].pop("bbox"), "not valid COCO JSON"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "not valid COCO JSON"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "not a number"),
        (lambda c: c["images"][0].update(file_name="../../etc/x.png"), "leaves its folder"),
        (lambda c: c["images"][0].update(file_name="train/other.png"), "lacks train/other"),
        (lambda c: c["images"][1].update(id=1), "an image id twice"),
    ],
)
def test_broken_annotations_are_named(
    small_folder: DetectionDataset, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_annotations(small_folder, change)
    with pytest.raises(DataError, match=message):
        small_folder.samples("train")


def test_an_absent_split_is_named(small_folder: DetectionDataset) -> None:
    with pytest.raises(DataError, match="no split 'val'; it has train"):
        small_folder.samples("val")


def test_a_broken_manifest_is_named(small_folder: DetectionDataset) -> None:
    path = small_folder.root / "manifest.csv"
    path.write_text(path.read_text().replace("width", "breadth", 1))
    with pytest.raises(DataError, match="must have the columns"):
        small_folder.samples("train")
    path.write_text("path,bytes,sha256,width,height,split\nimages/train/0000.png,x,y,1,1,train\n")
    with pytest.raises(DataError, match=r"manifest\.csv is broken"):
        small_folder.samples("train")


def test_a_dataset_can_be_moved(small_folder: DetectionDataset, tmp_path: Path) -> None:
    shutil.move(small_folder.root, tmp_path / "elsewhere")
    moved = open_dataset(tmp_path / "elsewhere")
    assert moved.digest == small_folder.digest
    assert moved.samples("train")[0].path.is_file()
