"""Splits that the source does not give."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from components.dataset.groups import group_images, source_of
from components.dataset.pictures import PictureFacts
from components.dataset.split import SplitPlan, complete_splits
from yolo_core.data.coco import SourceBox, SourceImage
from yolo_core.errors import DataError

from .conftest import Make

Facts = dict[str, PictureFacts]


def image(name: str, *classes: int) -> SourceImage:
    boxes = [SourceBox(class_index=number, box=(0, 0, 1, 1)) for number in classes]
    return SourceImage(file_name=name, content=b"", boxes=boxes)


def images(count: int, prefix: str = "") -> list[SourceImage]:
    return [image(f"{prefix}{number:03d}.jpg") for number in range(count)]


def names(found: list[SourceImage]) -> set[str]:
    return {image.file_name for image in found}


def facts(hashes: dict[str, int]) -> Facts:
    plain = {"stored": (1, 1), "upright": (1, 1), "turned": False, "convert": False, "sha256": ""}
    return {name: PictureFacts(**plain, phash=value) for name, value in hashes.items()}  # type: ignore[arg-type]


@pytest.fixture
def split(config: Make) -> object:
    def make(named: dict[str, list[SourceImage]], known: Facts | None = None, **changes: object) -> SplitPlan:
        return complete_splits(
            named, config(**{"val_fraction": 0.2, "test_fraction": 0.1, **changes}), known or {}
        )

    return make


def test_missing_splits_are_taken_from_train(split: Make) -> None:
    plan = split({"train": images(100)})
    assert {name: len(found) for name, found in plan.splits.items()} == {"train": 70, "val": 20, "test": 10}
    assert set.union(*map(names, plan.splits.values())) == names(images(100))
    assert plan.record["how"] == "drawn" and plan.record["groups"] == 100
    assert plan.record["shares"] == {"val": 0.2, "test": 0.1}


def test_seed_decides_and_order_does_not(split: Make) -> None:
    shuffled = images(50)
    random.Random(3).shuffle(shuffled)
    first = split({"train": images(50)})
    assert split({"train": shuffled}) == first
    assert names(split({"train": images(50)}, seed=1).splits["val"]) != names(first.splits["val"])


def test_named_splits_stay(split: Make) -> None:
    given = {"train": images(10), "val": images(3, "v"), "test": images(2, "t")}
    plan = split(given)
    assert plan.splits == given and plan.record == {"how": "given"}
    only_test = split({"train": images(10), "val": images(3, "v")}).splits
    assert names(only_test["val"]) == names(images(3, "v"))
    assert len(only_test["test"]) == 1 and len(only_test["train"]) == 9
    assert list(only_test) == ["train", "val", "test"]


def test_a_fraction_of_zero_makes_no_split(split: Make) -> None:
    assert list(split({"train": images(10)}, val_fraction=0.0, test_fraction=0.0).splits) == ["train"]
    assert list(split({"train": images(10)}, val_fraction=0.0, test_fraction=0.3).splits) == ["train", "test"]


def apart(plan: SplitPlan, group: dict[str, object]) -> bool:
    """Whether no group is in two splits."""
    found = [{group[name] for name in names(part)} for part in plan.splits.values()]
    return sum(map(len, found)) == len(set.union(*found))


def test_pictures_that_look_alike_stay_together(split: Make) -> None:
    rng = np.random.default_rng(0)
    scenes = rng.integers(-(2**63), 2**63 - 1, 20)
    scene = {f"{number:03d}.jpg": number // 2 for number in range(40)}
    # The second of a pair differs from the first in 3 bits.
    hashes = {name: int(scenes[n // 2]) ^ (0b1011 * (n % 2)) for n, name in enumerate(scene)}
    for seed in range(5):
        plan = split({"train": images(40)}, facts(hashes), seed=seed)
        assert apart(plan, dict(scene))
        assert plan.record["groups"] == 20 and plan.record["images_grouped_by_look"] == 40
    assert not apart(split({"train": images(40)}), dict(scene))


def test_frames_of_a_clip_stay_together(split: Make) -> None:
    frames = [image(f"clip{clip}_{number:04d}.jpg", number % 2) for clip in range(12) for number in range(5)]
    clip = {frame.file_name: frame.file_name.partition("_")[0] for frame in frames}
    plan = split({"train": frames})
    assert apart(plan, dict(clip))
    assert plan.record["groups"] == 12 and plan.record["images_grouped_by_name"] == 60
    assert not apart(split({"train": frames}, group_by="none"), dict(clip))


def test_a_word_that_all_names_begin_with_is_no_source(split: Make, caplog: pytest.LogCaptureFixture) -> None:
    plan = split({"train": [image(f"BloodImage_{number:05d}.jpg", 0) for number in range(50)]})
    assert plan.record["groups"] == 50 and not caplog.records
    # cat_01, dog_01: whole classes would be in one split.
    kinds = [image(f"{kind}_{n}.jpg", number) for number, kind in enumerate("abc") for n in range(9)]
    plan = split({"train": kinds})
    assert plan.record["groups"] == 27 and plan.record["images_grouped_by_name"] == 0
    assert "set dataset.group_by" in caplog.text


def test_a_regular_expression_names_the_source(split: Make) -> None:
    frames = [image(f"{n:02d}-cam{cam}.jpg", 0) for cam in range(4) for n in range(5)]
    plan = split({"train": frames}, group_by=r"cam\d+")
    assert apart(plan, {frame.file_name: frame.file_name.partition("-")[2] for frame in frames})
    assert plan.record["groups"] == 4


@pytest.mark.parametrize(
    ("name", "by", "source"),
    [
        ("clip7_0001.jpg", "auto", "clip7"),
        ("a/frame-12.png", "auto", "a/frame"),
        ("cells_jpg.rf.0a1B.jpg", "auto", "cells"),
        ("0012_jpg.rf.0a1b.jpg", "auto", "0012"),
        ("plain.jpg", "auto", "plain"),
        ("x-cam3-9.jpg", r"cam(\d)", "3"),
        ("none.jpg", r"cam(\d)", "none.jpg"),
    ],
)
def test_sources_in_file_names(name: str, by: str, source: str) -> None:
    assert source_of(name, by) == source


def test_groups_join_through_looks_and_names() -> None:
    three = [image("a_1.jpg"), image("a_2.jpg"), image("b_1.jpg"), image("c_1.jpg")]
    known = facts({"a_2.jpg": 7, "b_1.jpg": 7})
    assert group_images(three, known, r"^\w", 2).of == [0, 0, 0, 1]
    assert group_images(three, known, "none", 2).of == [0, 1, 1, 2]


def test_classes_are_shared_out(split: Make) -> None:
    """Each class comes near its share in each split, the rare ones too."""
    rng = np.random.default_rng(1)
    odds = np.array([1.0, 0.5, 0.2, 0.05, 0.02])
    many = [
        image(f"{number:04d}.jpg", *np.flatnonzero(rng.random(5) < odds).tolist()) for number in range(1000)
    ]
    plan = split({"train": many})
    total = counts(many)
    for name, share in (("val", 0.2), ("test", 0.1)):
        found = counts(plan.splits[name])
        assert np.abs(found - share * total).max() <= np.maximum(0.02 * total, 1).max()
        assert (np.abs(found - share * total) <= np.maximum(0.05 * total, 1)).all()
        assert abs(len(plan.splits[name]) - share * 1000) <= 20


def counts(found: list[SourceImage]) -> np.ndarray:
    return np.bincount([box.class_index for image in found for box in image.boxes], minlength=5)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images(split: Make, count: int) -> None:
    with pytest.raises(DataError, match=f"{count} training images in {count} groups are too few"):
        split({"train": images(count)})


def test_a_split_is_never_empty(split: Make) -> None:
    for seed in range(10):
        plan = split({"train": [image(f"{n}.jpg", 0, n % 2) for n in range(3)]}, seed=seed)
        assert [len(found) for found in plan.splits.values()] == [1, 1, 1]


def test_the_record_is_in_the_dataset(config: Make, coco: Make, tmp_path: Path) -> None:
    import json

    from components.dataset.work import materialise

    materialise(config(source=str(coco()), val_fraction=0.5), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())["split"]
    assert (record["how"], record["seed"], record["groups"]) == ("drawn", 0, 2)
