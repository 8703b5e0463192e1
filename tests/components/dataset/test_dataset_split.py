"""Splits that the source does not give."""

from __future__ import annotations

import random

import pytest

from components.dataset.split import complete_splits
from yolo_core.data.coco import SourceImage
from yolo_core.errors import DataError


def images(count: int, prefix: str = "") -> list[SourceImage]:
    return [SourceImage(file_name=f"{prefix}{number:03d}.jpg", content=b"") for number in range(count)]


def names(found: list[SourceImage]) -> set[str]:
    return {image.file_name for image in found}


BOTH = {"val": 0.2, "test": 0.1}


def test_missing_splits_are_taken_from_train() -> None:
    splits = complete_splits({"train": images(100)}, BOTH, {}, 0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 70, "val": 20, "test": 10}
    assert names(splits["train"]) | names(splits["val"]) | names(splits["test"]) == names(images(100))


def test_seed_decides_and_order_does_not() -> None:
    shuffled = images(50)
    random.Random(3).shuffle(shuffled)
    first = complete_splits({"train": images(50)}, BOTH, {}, 0)
    assert complete_splits({"train": shuffled}, BOTH, {}, 0) == first
    assert names(complete_splits({"train": images(50)}, BOTH, {}, 1)["val"]) != names(first["val"])


def test_named_splits_stay() -> None:
    given = {"train": images(10), "val": images(3, "v"), "test": images(2, "t")}
    assert complete_splits(given, BOTH, {}, 0) == given
    only_test = complete_splits({"train": images(10), "val": images(3, "v")}, BOTH, {}, 0)
    assert names(only_test["val"]) == names(images(3, "v"))
    assert len(only_test["test"]) == 1 and len(only_test["train"]) == 9
    assert list(only_test) == ["train", "val", "test"]


def test_a_fraction_of_zero_makes_no_split() -> None:
    assert list(complete_splits({"train": images(10)}, {"val": 0.0, "test": 0.0}, {}, 0)) == ["train"]
    assert list(complete_splits({"train": images(10)}, {"val": 0.0, "test": 0.3}, {}, 0)) == ["train", "test"]


def test_copies_of_an_image_stay_together() -> None:
    content = {f"{number:03d}.jpg": str(number // 2) for number in range(40)}  # pairs
    for seed in range(5):
        splits = complete_splits({"train": images(40)}, BOTH, content, seed)
        found = [{content[name] for name in names(part)} for part in splits.values()]
        assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} training images are too few"):
        complete_splits({"train": images(count)}, BOTH, {}, 0)
