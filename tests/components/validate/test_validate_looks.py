"""Images that look alike, and tags that turn images."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.validate.looks import compare

from .conftest import Bench, Validated


def _replace(bench: Bench, source: str, target: str, orientation: int = 1) -> None:
    """Save one image again, as a JPEG of another quality, in place of another, and say so everywhere."""
    images = bench.dataset / "images"
    encoded = io.BytesIO()
    with Image.open(images / source) as picture:
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(encoded, "JPEG", quality=60, exif=exif)
        width, height = picture.size
    (images / target).write_bytes(encoded.getvalue())
    _record(bench, target, (width, height))


def _record(bench: Bench, name: str, size: tuple[int, int]) -> None:
    import hashlib

    path = bench.dataset / "manifest.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if row["path"] == f"images/{name}")
    row["sha256"] = hashlib.sha256((bench.dataset / "images" / name).read_bytes()).hexdigest()
    row["width"], row["height"] = map(str, size)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    annotations = bench.dataset / "annotations" / f"{Path(name).parts[0]}.json"
    content = json.loads(annotations.read_text())
    image = next(image for image in content["images"] if image["file_name"] == name)
    image.update(width=size[0], height=size[1])
    annotations.write_text(json.dumps(content))


@pytest.fixture
def alike(bench: Bench) -> Validated:
    """A likeness across splits, one within a split, and a turned image."""
    _replace(bench, "train/00003.jpg", "val/00001.jpg")
    _replace(bench, "train/00006.jpg", "train/00007.jpg")
    _replace(bench, "test/00001.jpg", "test/00001.jpg", orientation=6)
    return bench.validate(box_tolerance=999.0, drop_budget=6.0)


def test_each_kind_is_found_and_only_there(alike: Validated) -> None:
    assert alike.error is None
    assert alike.broken == {"image_looks_in_one_split", "image_looks_unique", "image_upright"}
    across = ["images/train/00003.jpg", "images/val/00001.jpg"]
    assert alike.rule("image_looks_in_one_split")["files"] == across
    assert alike.rule("image_looks_in_one_split")["severity"] == "block"
    assert alike.rule("image_looks_unique")["files"] == ["images/train/00006.jpg", "images/train/00007.jpg"]
    assert alike.rule("image_upright")["files"] == ["images/test/00001.jpg"]
    assert alike.result is not None and alike.result["quarantined"] == 1
    with (alike.root / "reports" / "validation" / "offenders.csv").open() as file:
        details = {(row["rule"], row["file"]): row["detail"] for row in csv.DictReader(file)}
    assert details["image_looks_in_one_split", across[1]] == "images/train/00003.jpg"
    assert details["image_upright", "images/test/00001.jpg"] == "orientation 6"
    assert (alike.root / "reports" / "validation" / "offenders.jpg").stat().st_size > 10_000


def test_training_gives_way_to_validation_and_that_to_the_test() -> None:
    hashes = np.array([0, 1, 0, 7 << 20, 7 << 20, 7 << 20, -1], np.int64)
    files = np.array([0, 1, 2, 3, 3, 4, 5])
    split = np.array([0, 1, 2, 0, 1, 1, 2])
    found = compare(hashes, files, split, 1)
    assert found.gives_way(split).tolist() == [True, True, False, True, False, False, False]
    assert found.leader.tolist() == [0, 0, 0, 3, 3, 3, 6]
    assert found.elsewhere(split).tolist() == [
        [False, True, True],
        [True, False, True],
        [True, True, False],
        [False, True, False],  # its copy in that split is no likeness, the other file is
        [False, False, False],
        [True, False, False],
        [False, False, False],
    ]
    assert found.like[[3, 4, 5], [0, 1, 1]].tolist() == [0, 1, 1]


def test_no_bits_is_equality() -> None:
    hashes = np.array([0, 1, 1], np.int64)
    found = compare(hashes, np.array([0, 1, 2]), np.zeros(3, np.int64), 0)
    assert found.like[:, 0].tolist() == [0, 1, 1]
