"""Pascal VOC folders, and how a layout is recognised."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.dataset.sources.detect import detect_layout, read_source
from components.dataset.sources.voc import read_voc
from yolo_core.errors import DataError, UsageError

from .conftest import Write, voc_object


def test_corners_count_from_one_and_are_included(voc: Write) -> None:
    source = read_source(voc(voc_object(box=(1, 1, 40, 30)) + voc_object("ant", (11, 6, 20, 9))), "auto")
    assert source.layout == "voc"
    assert source.classes.names == ("ant", "cell")
    first, _ = source.splits["train"]
    assert [box.box for box in first.boxes] == [(0, 0, 40, 30), (10, 5, 10, 4)]
    assert [box.class_index for box in first.boxes] == [1, 0]


def test_a_difficult_object_is_neither_right_nor_wrong(voc: Write) -> None:
    objects = voc_object(extra="<difficult>1</difficult>") + voc_object(extra="<difficult>0</difficult>")
    assert [box.crowd for box in read_voc(voc(objects)).splits["train"][0].boxes] == [True, False]


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        (voc_object(box=(9, 1, 5, 4)), "object 1: cell: negative size -4 x 3"),
        (voc_object(box=("nan", 1, 5, 4)), "object 1: cell: a coordinate is not finite"),
        (voc_object(box=("x", 1, 5, 4)), "object 1: cell: bndbox needs numbers xmin, ymin, xmax, ymax"),
        (voc_object(name=""), "object 1: has no name"),
        ("<object>", "is not valid XML"),
    ],
)
def test_faults_name_file_and_object(voc: Write, objects: str, problem: str) -> None:
    with pytest.raises(DataError, match=r"Annotations/a\.xml") as caught:
        read_voc(voc(objects))
    assert problem in str(caught.value)


def test_a_recorded_size_that_is_wrong_and_one_that_is_missing(voc: Write) -> None:
    with pytest.raises(DataError, match="made for an image of 41x30, but it is 40x30"):
        read_voc(voc(size=(41, 30)))
    assert read_voc(voc(size=(0, 0))).splits["train"]


def test_splits_come_from_the_image_sets(voc: Write) -> None:
    root = voc()
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    (folder / "trainval.txt").write_text("a\n")
    (folder / "test.txt").write_text("b  1\n")
    source = read_voc(root)
    assert {split: images[0].file_name for split, images in source.splits.items()} == {
        "train": "a.jpg",
        "test": "b.jpg",
    }
    (folder / "test.txt").write_text("b\nb\nc\n../a\n")
    with pytest.raises(DataError) as caught:
        read_voc(root)
    for problem in ("lists b twice", "c.xml: is missing", "'../a' leaves its folder"):
        assert problem in str(caught.value)


def test_an_annotation_without_an_image(voc: Write) -> None:
    root = voc()
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"Annotations/b.xml: annotates an image that is missing"):
        read_voc(root)


def test_a_list_of_classes_decides_order_and_knows_all(voc: Write) -> None:
    root = voc()
    (root / "classes.txt").write_text("zebra\ncell\n")
    assert read_voc(root).classes.names == ("zebra", "cell")
    (root / "classes.txt").write_text("zebra\n")
    with pytest.raises(DataError, match="names class 'cell', which is not listed"):
        read_voc(root)


def test_a_folder_around_the_folder(voc: Write) -> None:
    root = voc()
    outer = root.parent / "VOCdevkit"
    outer.mkdir()
    root.rename(outer / "VOC2007")
    assert detect_layout(outer, "auto") == "voc"
    assert len(read_voc(outer).splits["train"]) == 2


def test_a_missing_source_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; give a COCO, YOLO or Pascal VOC folder"):
        read_source(tmp_path / "none", "auto")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        read_source(tmp_path / "file", "auto")


def test_an_unknown_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError) as caught:
        read_source(tmp_path, "auto")
    for word in ("annotations/*.json", "data.yaml", "Annotations/*.xml"):
        assert word in str(caught.value)


def test_a_layout_that_was_asked_for_must_be_there(voc: Write, yolo: Write) -> None:
    with pytest.raises(UsageError, match="has not the coco layout: looked for annotations"):
        read_source(voc(), "coco")
    root = voc()
    (root / "data.yaml").write_text("names: [cell]")
    with pytest.raises(UsageError, match=r"fits several layouts \(voc, yolo\)"):
        read_source(root, "auto")
    assert read_source(root, "voc").layout == "voc"
