"""Every rule: silent on clean data, and sure to find what was planted for it."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.validate.annotations import read_content
from components.validate.rules import ANNOTATIONS, BLOCK, RULES, Rule
from yolo_core.errors import DataError

from .conftest import Bench, Validated

Content = dict[str, Any]


def test_clean_data_breaks_no_rule(validated_clean: Validated) -> None:
    done = validated_clean
    assert done.error is None and done.result is not None
    assert done.broken == set()
    assert done.report["success"] is True
    assert [rule["rule"] for rule in done.report["rules"]] == [rule.name for rule in RULES]
    assert done.report["images"] == 18
    assert done.report["dataset_digest"].startswith("sha256:")


def box(index: int, value: float) -> Callable[[Content], None]:
    def change(item: Content) -> None:
        item["bbox"][index] = value

    return change


def values(**changes: Any) -> Callable[[Content], None]:
    return lambda item: item.update(changes)


def without(key: str) -> Callable[[Content], None]:
    return lambda item: item.pop(key)


# Annotation id -> what is done to it, and the rules that must find it; no other may.
PLANTED: dict[int, tuple[Callable[[Content], None], set[str]]] = {
    3: (values(iscrowd=2), {"annotation_schema"}),
    5: (values(category_id="7"), {"annotation_schema", "annotation_class_known"}),
    7: (values(bbox=[1, 2, 3]), {"annotation_schema", "annotation_complete", "box_finite"}),
    9: (without("area"), {"annotation_complete"}),
    11: (without("bbox"), {"annotation_complete", "box_finite"}),
    13: (values(iscrowd=None), {"annotation_complete"}),
    15: (values(image_id=987), {"annotation_image_known"}),
    17: (values(category_id=0), {"annotation_class_known"}),
    19: (values(category_id=11), {"annotation_class_known"}),
    21: (box(0, float("nan")), {"box_finite", "annotation_complete"}),
    23: (box(2, float("inf")), {"box_finite", "box_inside", "area_plausible"}),
    25: (box(2, 0), {"box_positive", "box_not_tiny", "area_plausible"}),
    27: (box(3, -4), {"box_positive", "box_not_tiny", "area_plausible"}),
    29: (box(0, -1.5), {"box_inside"}),
    31: (box(1, 300), {"box_inside"}),
    33: (box(3, 400), {"box_inside"}),
    35: (box(3, 1.9), {"box_not_tiny", "area_plausible"}),
    37: (values(area=0), {"area_plausible"}),
    39: (values(area=1e6), {"area_plausible"}),
    41: (box(0, -0.9), set()),  # within the tolerance
    43: (values(segmentation=[[1, 1, 9, 9, 5, 5]]), {"polygon_valid"}),  # three points in a line
    45: (values(segmentation=[[1, 1, 9, 9]]), {"polygon_valid"}),
    47: (values(segmentation={"counts": [1]}), {"polygon_valid"}),
    49: (values(segmentation=[]), set()),
    51: (box(2, 10**400), {"box_finite", "box_inside", "area_plausible"}),
    53: (values(area=10**400), {"area_plausible"}),
    55: (values(segmentation=[[1, 1, 9, 1, 9, 10**400]]), {"polygon_valid"}),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, clean_dataset: Path) -> Validated:
    """One validation of all planted faults: each rule must tell its own from the others'."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copytree(clean_dataset, root / "data" / "dataset")
    bench = Bench(root)

    def plant(content: Content) -> None:
        for item in content["annotations"]:
            if item["id"] in PLANTED:
                PLANTED[item["id"]][0](item)

    bench.edit(plant)
    return bench.validate()


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.table == ANNOTATIONS], ids=lambda rule: rule.name
)
def test_each_rule_finds_what_was_planted_for_it(planted: Validated, rule: Rule) -> None:
    expected = [number for number, (_, rules) in PLANTED.items() if rule.name in rules]
    found = planted.rule(rule.name)
    assert sorted(found["annotation_ids"]) == expected
    assert found["failed"] == len(expected)
    assert found["severity"] == rule.severity
    assert bool(found["files"]) == bool(expected)
    if expected and rule.severity == BLOCK:
        assert f"{rule.name}: {len(expected)} (annotations {expected[0]}" in str(planted.error)


def test_an_id_used_twice_also_in_another_split(bench: Bench) -> None:
    bench.edit(lambda content: content["annotations"][1].update(id=1))
    bench.edit(lambda content: content["annotations"][0].update(id=1), "val")
    done = bench.validate()
    assert done.rule("annotation_id_unique")["annotation_ids"] == [1, 1, 1]
    assert done.error is not None


def test_the_same_object_boxed_twice(bench: Bench) -> None:
    def repeat(content: Content) -> None:
        first, other = content["annotations"][:2]
        x, y, w, h = first["bbox"]
        content["annotations"].append({**first, "id": 5000, "bbox": [x + 0.02 * w, y, w, h]})
        content["annotations"].append({**first, "id": 5001, "category_id": first["category_id"] % 10 + 1})
        content["annotations"].append({**other, "id": 5002, "iscrowd": 1})

    bench.edit(repeat)
    done = bench.validate()
    assert done.error is None  # a warning
    assert done.rule("annotation_unique")["annotation_ids"] == [1, 5000]
    assert done.result is not None and done.result["warnings"] == [
        "annotation_unique: 2 (annotations 1, 5000)"
    ]


def test_many_faults_at_once_are_all_found(bench: Bench) -> None:
    def ruin(content: Content) -> None:
        for item in content["annotations"][:7]:
            item["bbox"][2] = 0
        content["annotations"][8]["category_id"] = 77

    bench.edit(ruin)
    done = bench.validate()
    assert done.rule("box_positive")["failed"] == 7
    message = str(done.error)
    assert "box_positive: 7 (annotations 1, 2, 3, 4, 5, ...)" in message
    assert "annotation_class_known: 1 (annotations 9)" in message
    assert len(message.splitlines()) == 2


def _repaint(path: Path) -> None:
    """Write other pixels of the same size under an image's name."""
    height, width = cv2.imread(str(path)).shape[:2]
    cv2.imwrite(str(path), np.full((height, width, 3), 7, np.uint8))


def test_planted_image_faults(bench: Bench) -> None:
    """All at once: each rule must tell its own from the others'."""
    folder = bench.dataset / "images" / "train"
    names = sorted(path.name for path in folder.iterdir())
    faults: dict[int, dict[str, Any]] = {
        0: {"width": 0},
        1: {"height": None},
        2: {"width": 9},
        3: {"file_name": "train/none.jpg"},
    }

    def plant(content: Content) -> None:
        for index, changes in faults.items():
            content["images"][index].update(changes)
        content["images"][10]["id"] = content["images"][11]["id"]

    bench.edit(plant)
    _repaint(folder / names[4])
    (folder / names[5]).unlink()
    (folder / names[6]).write_bytes(b"")
    (folder / names[7]).write_bytes(b"text")
    (folder / names[8]).write_bytes((folder / names[8]).read_bytes()[:1500])
    done = bench.validate(severity={"annotation_image_known": "off", "box_inside": "off"})
    paths = [f"images/train/{name}" for name in names]
    expected = {
        "image_schema": [paths[0]],
        "image_complete": [paths[1]],
        "image_id_unique": [paths[10], paths[11]],
        "image_decodes": ["images/train/none.jpg", *paths[5:9]],
        "image_size_recorded": paths[:3],
        "image_as_written": ["images/train/none.jpg", paths[4], *paths[6:9]],
    }
    for rule, files in expected.items():
        assert sorted(done.rule(rule)["files"]) == sorted(files), rule
        assert rule in str(done.error)
    with (bench.root / "reports" / "validation" / "offenders.csv").open() as file:
        details = {
            row["file"]: row["detail"] for row in csv.DictReader(file) if row["rule"] == "image_decodes"
        }
    assert details[paths[5]].startswith("cannot be read")
    assert details[paths[6]].startswith("does not decode") and details[paths[7]].startswith("does not decode")
    assert details[paths[8]].startswith("is cut off")


def _copy_image(bench: Bench, source: str, target: str) -> None:
    """Put the bytes of one image under the name of another, and say so everywhere."""
    images = bench.dataset / "images"
    shutil.copy(images / source, images / target)
    path = bench.dataset / "manifest.csv"
    with path.open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    known = rows[f"images/{source}"]
    for key in ("bytes", "sha256", "width", "height"):
        rows[f"images/{target}"][key] = known[key]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(known), lineterminator="\n")
        table.writeheader()
        table.writerows(rows.values())

    def resize(content: Content) -> None:
        for image in content["images"]:
            if image["file_name"] == target:
                image.update(width=int(known["width"]), height=int(known["height"]))

    bench.edit(resize, Path(target).parts[0])


def test_an_image_in_two_splits_blocks(bench: Bench) -> None:
    _copy_image(bench, "train/00003.jpg", "test/00001.jpg")
    done = bench.validate(box_tolerance=999.0)
    assert set(done.rule("image_in_one_split")["files"]) == {
        "images/train/00003.jpg",
        "images/test/00001.jpg",
    }
    assert done.broken == {"image_in_one_split"}
    assert done.error is not None


def test_an_image_twice_in_a_split_warns(bench: Bench) -> None:
    _copy_image(bench, "train/00003.jpg", "train/00004.jpg")
    done = bench.validate(box_tolerance=999.0)
    assert done.error is None
    assert done.broken == {"image_unique"}
    assert done.rule("image_unique")["files"] == ["images/train/00003.jpg", "images/train/00004.jpg"]


def test_a_class_that_training_hardly_shows(bench: Bench) -> None:
    def crowd(content: Content) -> None:
        for item in content["annotations"]:
            if item["category_id"] == 4:
                item["iscrowd"] = 1  # a crowd is no instance

    bench.edit(crowd)
    done = bench.validate()
    assert done.error is None
    assert done.rule("class_has_instances")["classes"] == ["3 in train"]
    done = bench.validate(min_instances={"train": 0, "val": 10**6})
    assert done.broken == {"class_has_instances"}
    assert done.rule("class_has_instances")["failed"] == 10  # all in val


def test_a_class_that_is_rare_beside_the_largest(bench: Bench) -> None:
    content = json.loads((bench.dataset / "annotations" / "train.json").read_text())
    counts = Counter(item["category_id"] for item in content["annotations"] if not item["iscrowd"])
    (rarest, least), largest = min(counts.items(), key=lambda item: item[1]), max(counts.values())
    done = bench.validate(max_times_rarer=largest / least - 0.01)
    assert done.error is None and done.broken == {"class_balanced"}
    assert f"{rarest - 1} in train" in " ".join(done.rule("class_balanced")["classes"])


def test_severity_can_be_changed(bench: Bench) -> None:
    bench.edit(lambda content: box(2, 0)(content["annotations"][4]))
    warned = bench.validate(severity={"box_positive": "warn"})
    assert warned.error is None and warned.rule("box_positive")["severity"] == "warn"
    off = bench.validate(severity={"box_positive": "off", "box_not_tiny": "block"})
    assert "box_positive" not in {rule["rule"] for rule in off.report["rules"]}
    assert off.error is not None and "box_not_tiny" in str(off.error)


def test_a_split_without_boxes_blocks_unless_it_is_the_test(bench: Bench) -> None:
    bench.edit(lambda content: content["annotations"].clear(), "test")
    done = bench.validate()
    assert done.error is None
    assert done.broken == {"split_labelled"}
    assert done.rule("split_labelled")["splits"] == ["test 1.00"]
    bench.edit(lambda content: [item.update(iscrowd=1) for item in content["annotations"]], "val")
    bench.edit(lambda content: content["annotations"].clear())
    done = bench.validate(drop_budget=100.0)
    assert done.rule("split_has_boxes")["splits"] == ["train 0", "val 0"]
    assert "split_has_boxes cannot be mended by setting images aside" in str(done.error)


def test_text_that_is_no_unicode(bench: Bench) -> None:
    bench.edit(lambda content: content["images"][0].update(file_name="train/\ud83d\ude00.jpg"))
    path = bench.dataset / "annotations" / "train.json"
    assert read_content(path)["images"][0]["file_name"] == "train/\U0001f600.jpg"
    bench.edit(lambda content: content["images"][0].update(file_name="train/\ud800.jpg"))
    with pytest.raises(DataError, match=r"train\.json is not valid JSON .*surrogates"):
        bench.validate()
