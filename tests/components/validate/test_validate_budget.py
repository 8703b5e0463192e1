"""The drop budget: a few faulty images are set aside, more of them stop the pipeline."""

from __future__ import annotations

import json
from typing import Any

from yolo_core.data.coco import open_dataset
from yolo_core.data.quarantine import quarantine_file

from .conftest import Bench, Validated


def _ruin(bench: Bench, *numbers: int) -> list[str]:
    """Give a box of each numbered training image a negative width; returns the images."""
    names: list[str] = []

    def change(content: dict[str, Any]) -> None:
        for number in numbers:
            image = content["images"][number]
            names.append(f"images/{image['file_name']}")
            item = next(item for item in content["annotations"] if item["image_id"] == image["id"])
            item["bbox"][2] = -4

    bench.edit(change)
    return names


def test_within_the_budget_images_are_set_aside(bench: Bench) -> None:
    faulty = _ruin(bench, 2, 5)
    done = bench.validate(drop_budget=12.0)  # of 18 images
    assert done.error is None and done.result is not None
    assert done.result["quarantined"] == 2
    assert done.result["warnings"][0].startswith(
        "2 of 18 images are set aside and will not be used: box_positive: 2 (annotations "
    )
    assert done.report["success"] is True and done.report["quarantined_images"] == 2
    listed = json.loads(quarantine_file(bench.dataset).read_text())
    assert listed["dataset_digest"] == done.report["dataset_digest"]
    assert listed["images"] == [{"path": path, "rules": ["box_positive"]} for path in sorted(faulty)]
    dataset = open_dataset(bench.dataset)
    left = {f"images/train/{sample.path.name}" for sample in dataset.samples("train")}
    assert len(left) == 10 and not left & set(faulty)
    page = (bench.root / "reports" / "validation" / "summary.html").read_text()
    assert "Fit for training without 2 images that are set aside" in page
    assert faulty[0] in page


def test_above_the_budget_the_stage_fails(bench: Bench) -> None:
    _ruin(bench, 2, 5)
    done = bench.validate(drop_budget=11.0)
    assert done.report["success"] is False
    assert "2 of 18 images would have to be set aside, 11 %, and validate.drop_budget is 11 %" in str(
        done.error
    )
    assert len(str(done.error).splitlines()) == 2


def test_what_belongs_to_no_image_blocks_whatever_the_budget(bench: Bench) -> None:
    bench.edit(lambda content: content["annotations"][0].update(image_id=987))
    done = bench.validate(drop_budget=100.0)
    assert "annotation_image_known cannot be mended by setting images aside" in str(done.error)


def test_no_split_is_emptied(bench: Bench) -> None:
    for path in (bench.dataset / "images" / "val").iterdir():
        path.write_bytes(b"text")
    done = bench.validate(drop_budget=100.0)
    assert "nothing would be left of split val" in str(done.error)


def test_a_clean_dataset_has_an_empty_list(validated_clean: Validated) -> None:
    listed = json.loads(quarantine_file(validated_clean.root / "data" / "dataset").read_text())
    assert listed == {"dataset_digest": validated_clean.report["dataset_digest"], "images": []}
