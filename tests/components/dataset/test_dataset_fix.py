"""The fix: a clean new version, every change said, and the old version untouched."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.dataset.builtin import DIGITS, builtin_splits
from components.dataset.config import BuiltinConfig
from components.dataset.fix import fix
from yolo_core.data.coco import class_table, open_dataset, write_dataset
from yolo_core.data.quarantine import write_quarantine
from yolo_core.errors import DataError, UsageError

Content = dict[str, Any]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset without a fault; copy it, don't write to it."""
    root = tmp_path_factory.mktemp("clean") / "data" / "dataset"
    splits = builtin_splits(BuiltinConfig(train_images=8, val_images=2, test_images=2), seed=0)
    write_dataset(root, splits, class_table(DIGITS), name="builtin", source="builtin")
    return root


@pytest.fixture
def root(tmp_path: Path, clean: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(clean, tmp_path / "data" / "dataset")
    return tmp_path / "data" / "dataset"


def edit(root: Path, change: Callable[[Content], None], split: str = "train") -> None:
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def fingerprint(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changes(target: Path) -> list[dict[str, str]]:
    with target.with_name(f"{target.name}.fixes.csv").open() as file:
        return list(csv.DictReader(file))


def test_clean_data_stay_the_same_version(root: Path, tmp_path: Path) -> None:
    before = fingerprint(root)
    found = fix(root, tmp_path / "fixed")
    assert found["digest"] == found["digest_before"] == open_dataset(tmp_path / "fixed").digest
    assert found["changes"] == "none were needed"
    assert changes(tmp_path / "fixed") == []
    assert fingerprint(root) == before


def test_boxes_are_clipped_dropped_and_told_apart(root: Path, tmp_path: Path) -> None:
    def plant(content: Content) -> None:
        items = content["annotations"]
        width = {image["id"]: image["width"] for image in content["images"]}
        items[0].update(bbox=[-9, 4, 20.5, 20], area=300)
        items[0]["segmentation"] = [[-9, 4, 11.5, 4, 11.5, 24, -9, 24]]
        items[1]["bbox"] = [width[items[1]["image_id"]] + 5, 4, 20, 20]
        items[2]["bbox"][2] = 0
        items[3]["bbox"] = [1, 2, float("nan"), 4]
        items[4]["category_id"] = 99
        items[5]["image_id"] = 987
        items[6]["segmentation"] = [[1, 1, 2, 2], *items[6]["segmentation"]]
        items[7]["area"] = -1
        items.append({**items[8], "id": 5000, "bbox": [items[8]["bbox"][0] + 0.1, *items[8]["bbox"][1:]]})

    edit(root, plant)
    before = fingerprint(root)
    found = fix(root, tmp_path / "fixed")
    assert found["changes"] == {
        "clipped box": 1,
        "dropped annotation": 5,
        "dropped outline": 1,
        "corrected area": 1,
        "dropped duplicate box": 1,
    }
    said = {row["annotation_id"]: row["detail"] for row in changes(tmp_path / "fixed")}
    assert said["1"] == "it reached 9 pixels past the image"
    assert said["2"].startswith("nothing of bbox") and said["3"].startswith("its size is 0 x")
    assert said["4"].endswith("is not four finite numbers") and said["5"] == "category 99 is not listed"
    assert said["6"] == "its image is not listed" and said["7"] == "an outline has 4 values"
    assert said["5000"].endswith("with annotation 9")
    items = json.loads((tmp_path / "fixed" / "annotations" / "train.json").read_text())["annotations"]
    clipped = next(item for item in items if item["bbox"] == [0, 4, 11.5, 20])
    assert clipped["area"] == 11.5 * 20
    assert np.min(clipped["segmentation"]) == 0
    assert fingerprint(root) == before


def test_numbers_and_text_beyond_all_bounds(root: Path, tmp_path: Path) -> None:
    def plant(content: Content) -> None:
        items = content["annotations"]
        items[0]["bbox"][2] = 10**400
        items[1]["area"] = 10**400
        items[2]["segmentation"] = [[1, 1, 9, 1, 9, 10**400]]
        content["images"][3]["width"] = 10**400

    edit(root, plant)
    found = fix(root, tmp_path / "fixed")["changes"]
    assert found["dropped annotation"] == found["corrected area"] == found["dropped outline"] == 1
    assert found["left out image"] == 1
    edit(root, lambda content: content["images"][4].update(file_name="train/\ud800.jpg"))
    with pytest.raises(DataError, match=r"train\.json is not valid JSON .*surrogates"):
        fix(root, tmp_path / "again")


def test_images_that_cannot_be_used_are_left_out(root: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (root / "images" / "train").iterdir())
    folder = root / "images" / "train"
    (folder / names[0]).write_bytes(b"text")
    (folder / names[1]).unlink()
    shutil.copy(min((root / "images" / "test").iterdir()), folder / names[2])
    shutil.copy(folder / names[4], folder / names[5])

    def resize(content: Content) -> None:
        test = json.loads((root / "annotations" / "test.json").read_text())["images"][0]
        sizes = {image["file_name"]: image for image in content["images"]}
        sizes[f"train/{names[2]}"].update(width=test["width"], height=test["height"])
        source = sizes[f"train/{names[4]}"]
        sizes[f"train/{names[5]}"].update(width=source["width"], height=source["height"])
        sizes[f"train/{names[3]}"]["width"] += 1

    edit(root, resize)
    aside = {
        f"images/train/{names[6]}": ["image_looks_in_one_split"],
        f"images/train/{names[7]}": ["box_inside"],
    }
    write_quarantine(root, open_dataset(root).digest, aside)
    fix(root, tmp_path / "fixed")
    left = {Path(row["file"]).name: row["detail"] for row in changes(tmp_path / "fixed")}
    assert left.keys() == {*names[:4], *names[5:7]}  # a box that leaves its image is clipped, the image stays
    assert "does not decode" in left[names[0]] and "cannot be read" in left[names[1]]
    assert left[names[2]].startswith("it is a copy of images/test/")
    assert "annotated as" in left[names[3]]
    assert left[names[5]] == f"it is a copy of images/train/{names[4]}"
    assert left[names[6]] == "validation set it aside: image_looks_in_one_split"
    fixed = open_dataset(tmp_path / "fixed")
    assert {sample.path.name for sample in fixed.samples("train")} == {names[4], names[7]}
    assert fixed.excluded == frozenset()


def test_ids_used_twice_leave_their_images_out(root: Path, tmp_path: Path) -> None:
    edit(root, lambda content: content["images"][1].update(id=content["images"][0]["id"]))
    found = fix(root, tmp_path / "fixed")
    assert found["changes"]["left out image"] == 2
    assert Counter(row["action"] for row in changes(tmp_path / "fixed")) == found["changes"]


def test_nothing_is_overwritten_and_no_split_is_emptied(root: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        fix(root, tmp_path / "there")
    with pytest.raises(UsageError, match="is there already"):
        fix(root, root)
    for path in (root / "images" / "val").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="nothing would be left of split val"):
        fix(root, tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_the_command_says_what_it_did(launch: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    edit(root, lambda content: content["annotations"][0].update(bbox=[-9, 4, 20.5, 20], area=300))
    done = launch("dataset", "--fix", "--workspace", tmp_path, "--json")
    assert done.code == 0, done.err
    assert done.result["changes"] == {"clipped box": 1}
    fixed = tmp_path / "data" / "dataset-fixed"
    assert done.result["folder"] == str(fixed)
    assert open_dataset(fixed).digest == done.result["digest"] != done.result["digest_before"]
    again = launch("dataset", "--fix", "--workspace", tmp_path)
    assert again.code == 2 and "is there already" in again.complaint
    empty = launch("dataset", "--fix", tmp_path / "x", "--workspace", tmp_path / "data")
    assert empty.code == 2 and "python -m components dataset" in empty.complaint
