"""YOLO folders: what is read, and what is a fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.dataset.sources.detect import read_source
from components.dataset.sources.yolo import read_yolo
from components.dataset.work import materialise
from yolo_core.errors import DataError, UsageError

from .conftest import Make, Write, picture


def test_labels_become_boxes_in_pixels(yolo: Write) -> None:
    source = read_source(yolo("1 0.5 0.5 0.25 0.2\n\n0 .1 .1 .1 .1"), "auto")
    assert source.layout == "yolo"
    assert (source.classes.names, source.classes.category_ids) == (("cat", "dog"), (1, 2))
    first, second = source.splits["train"]
    assert (first.file_name, second.file_name) == ("a.jpg", "b.png")
    assert not second.boxes  # no label file: background
    assert [box.class_index for box in first.boxes] == [1, 0]
    np.testing.assert_allclose(first.boxes[0].box, (15, 12, 10, 6))


def test_a_polygon_line_gives_its_box(yolo: Write) -> None:
    (box,) = read_yolo(yolo("0 .25 .2 .75 .2 .75 .8")).splits["train"][0].boxes
    np.testing.assert_allclose(box.box, (10, 6, 20, 18))
    np.testing.assert_allclose(box.segmentation, [[10, 6, 30, 6, 30, 24]])
    assert box.area == pytest.approx(180)


def test_segments_find_their_boxes_by_place(yolo: Write) -> None:
    """Another order, other class numbers and a segment too many, as in COCO128."""
    root = yolo("0 .25 .5 .3 .4\n1 .75 .5 .3 .4\n1 .5 .5 .9 .9")
    folder = root / "segments" / "train"
    folder.mkdir(parents=True)
    right = "90 .6 .3 .9 .3 .9 .7 .6 .7"
    left = "7 .1 .3 .4 .3 .4 .7"
    (folder / "a.txt").write_text(f"{right}\n{left}\n7 .0 .0 .1 .0 .1 .1\n")
    boxes = read_yolo(root).splits["train"][0].boxes
    assert [box.segmentation is not None for box in boxes] == [True, True, False]
    assert boxes[0].segmentation is not None and len(boxes[0].segmentation[0]) == 6
    np.testing.assert_allclose(boxes[0].box, (4, 9, 12, 12))  # the label's, not the segment's


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2 .5 .5 .1 .1", "class 2 is outside 0..1"),
        ("-1 .5 .5 .1 .1", "class -1 is outside 0..1"),
        ("0.5 .5 .5 .1 .1", "class 0.5 is outside"),
        ("0 .5 .5 .1", "has 4 values"),
        ("0 .5 .5 .1 .1 .9", "has 6 values"),
        ("0 nan .5 .1 .1", "has a value that is not finite"),
        ("0 .5 .5 -.1 .1", "negative size -0.1 x 0.1"),
        ("0 20 15 10 5", "20 is not a fraction of the image's side"),
        ("cat .5 .5 .1 .1", "'cat .5 .5 .1 .1' is not a line of numbers"),
    ],
)
def test_faults_name_file_and_line(yolo: Write, line: str, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        read_yolo(yolo(f"0 .5 .5 .1 .1\n{line}\n"))
    assert f"labels/train/a.txt line 2: {problem}" in str(caught.value)


def test_zero_sizes_and_boxes_beyond_the_edge_pass_to_the_validation(yolo: Write) -> None:
    boxes = read_yolo(yolo("0 .5 .5 0 .1\n0 1.01 .5 .1 .1")).splits["train"][0].boxes
    assert boxes[0].box[2] == 0 and boxes[1].box[0] + boxes[1].box[2] > 40


def test_a_label_without_an_image_and_a_broken_image(yolo: Write) -> None:
    root = yolo()
    (root / "labels" / "train" / "c.txt").write_text("0 .5 .5 .1 .1")
    (root / "labels" / "train" / "classes.txt").write_text("cat\ndog")
    (root / "images" / "train" / "b.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError) as caught:
        read_yolo(root)
    assert "2 faults" in str(caught.value)
    assert "labels/train/c.txt: labels an image that is missing from images/train/" in str(caught.value)
    assert "images/train/b.png: does not decode as an image" in str(caught.value)


def test_names_as_a_mapping_and_entries_that_lead_upwards(yolo: Write) -> None:
    root = yolo(yaml="train: ../images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    picture(root / "images" / "val" / "v.jpg", seed=3)
    source = read_yolo(root)
    assert source.classes.names == ("cat", "dog")
    assert [image.file_name for image in source.splits["val"]] == ["v.jpg"]


@pytest.mark.parametrize(
    ("yaml", "error", "message"),
    [
        ("train: images/train\nnc: 3\nnames: [cat, dog]", DataError, "nc is 3, but 2 names"),
        ("train: images/train\nnames: {0: cat, 2: dog}", DataError, "numbered 0, 1, 2"),
        ("train: images/train\nnames: []", DataError, "names must list the classes"),
        ("train: [", DataError, "is not valid YAML"),
        ("train: images/nowhere\nnames: [cat, dog]", UsageError, "images/nowhere does not exist"),
        ("train: /\nnames: [cat, dog]", UsageError, "is outside"),
        ("val: images/train\nnames: [cat, dog]", UsageError, "has no training images"),
    ],
)
def test_bad_configurations(yolo: Write, yaml: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_yolo(yolo(yaml=yaml))


def test_lists_of_images(yolo: Write) -> None:
    root = yolo(yaml="train: train.txt\nval: val.txt\nnames: [cat, dog]")
    (root / "train.txt").write_text("./images/train/a.jpg\n")
    (root / "val.txt").write_text("images/train/b.png\n")
    source = read_yolo(root)
    assert [image.file_name for image in source.splits["train"]] == ["a.jpg"]
    assert [image.file_name for image in source.splits["val"]] == ["b.png"]
    (root / "val.txt").write_text(f"images/train/b.png\nimages/c.jpg\n{root}/images/train/b.png\n")
    with pytest.raises(DataError) as caught:
        read_yolo(root)
    assert "val.txt line 2: image images/c.jpg is missing" in str(caught.value)
    assert "val.txt line 3" in str(caught.value) and "named absolutely" in str(caught.value)


def test_folders_without_a_configuration(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("valid", 2), ("test", 3)):
        picture(tmp_path / split / "images" / "a.jpg", seed=seed)
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "classes.txt").write_text("cat\n")
    source = read_source(tmp_path, "auto")
    assert source.layout == "yolo"
    assert list(source.splits) == ["train", "val", "test"]
    assert all(len(images[0].boxes) == 1 for images in source.splits.values())


def test_one_folder_of_images_is_split_by_seed(tmp_path: Path, config: Make) -> None:
    root = tmp_path / "flat"
    for number in range(10):
        picture(root / "images" / f"{number}.bmp", seed=number)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{number}.txt").write_text("0 .5 .5 .5 .5")
    (root / "classes.txt").write_text("cat\n")
    dataset = materialise(config(source=str(root), val_fraction=0.2, test_fraction=0.2), tmp_path / "out")
    assert {split: info.images for split, info in dataset.splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert all(sample.path.suffix == ".png" for sample in dataset.samples("train"))  # bmp is converted


def test_no_labels_at_all_is_a_wrong_path(yolo: Write) -> None:
    root = yolo()
    (root / "labels" / "train" / "a.txt").unlink()
    with pytest.raises(UsageError, match=r"no image of .* has a label file; looked for labels/train/a.txt"):
        read_yolo(root)


def test_several_configurations(yolo: Write) -> None:
    root = yolo()
    (root / "data.yaml").rename(root / "one.yaml")
    assert read_source(root, "yolo").classes.names == ("cat", "dog")
    (root / "two.yaml").write_text("names: [cat]")
    with pytest.raises(UsageError, match=r"several files with class names \(one.yaml, two.yaml\)"):
        read_source(root, "auto")
