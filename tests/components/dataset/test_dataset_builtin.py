"""The built-in dataset: reproducible, without leaks, with exact boxes, and hard enough."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from components.dataset.builtin import (
    DIGIT_SIZES,
    IMAGE_SIDES,
    MAX_OVERLAP,
    Material,
    builtin_splits,
    deal_material,
    draw_image,
)
from components.dataset.config import BuiltinConfig
from components.dataset.ink import draw_ink
from components.dataset.work import materialise
from yolo_core.data.coco import DetectionDataset, SourceImage
from yolo_core.data.images import decode_image

from .conftest import Make

SMALL = BuiltinConfig(train_images=24, val_images=8, test_images=8)


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[SourceImage]]:
    return {split: list(images) for split, images in builtin_splits(SMALL, seed=0).items()}


@pytest.fixture(scope="module")
def material() -> dict[str, Material]:
    return deal_material(seed=0)


def test_counts_and_names(drawn: dict[str, list[SourceImage]]) -> None:
    assert {split: len(images) for split, images in drawn.items()} == {"train": 24, "val": 8, "test": 8}
    assert [image.file_name for image in drawn["val"]][:2] == ["00001.jpg", "00002.jpg"]
    assert all(1 <= len(image.boxes) <= 8 for images in drawn.values() for image in images)


def test_same_seed_same_bytes_and_each_image_stands_alone(drawn: dict[str, list[SourceImage]]) -> None:
    fewer = BuiltinConfig(train_images=3, val_images=1, test_images=1)
    again = {split: list(images) for split, images in builtin_splits(fewer, seed=0).items()}
    for split, images in again.items():
        assert images == drawn[split][: len(images)]
    other = next(builtin_splits(fewer, seed=1)["train"])
    assert other.content != drawn["train"][0].content


def test_no_glyph_and_no_pixel_column_is_in_two_splits(material: dict[str, Material]) -> None:
    everything = np.concatenate([part.indices for part in material.values()])
    assert sorted(everything) == list(range(1797))
    for part in material.values():
        shares = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert shares.min() > 0.08  # every digit in every split
    # Together the regions are as wide as the photographs, so none overlaps another.
    for number in range(2):
        assert sum(part.photos[number].shape[1] for part in material.values()) == 640
        columns = {split: part.photos[number][:, 0].tobytes() for split, part in material.items()}
        assert len(set(columns.values())) == 3


def test_boxes_are_tight_around_what_was_painted(material: dict[str, Material]) -> None:
    """A box is compared with the pixels that differ from the same image without digits."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        image, boxes = draw_image(material["train"], rng)
        bare = _bare(material["train"], seed)
        changed = np.abs(image.astype(int) - bare.astype(int)).max(2) > 45
        for box in boxes:
            x, y, width, height = box.box
            around = changed[
                max(round(y) - 4, 0) : round(y + height) + 4, max(round(x) - 4, 0) : round(x + width) + 4
            ]
            others = [other for other in boxes if other is not box and _near(other.box, box.box)]
            if others:
                continue  # their ink is in this window too
            rows, columns = np.flatnonzero(around.any(1)), np.flatnonzero(around.any(0))
            assert abs((columns[-1] - columns[0] + 1) - width) <= 2.5
            assert abs((rows[-1] - rows[0] + 1) - height) <= 2.5


def _bare(material: Material, seed: int) -> np.ndarray:
    from components.dataset.builtin import _background

    return _background(material, np.random.default_rng(seed))


def _near(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    gap = 5
    return (
        one[0] < two[0] + two[2] + gap
        and two[0] < one[0] + one[2] + gap
        and one[1] < two[1] + two[3] + gap
        and two[1] < one[1] + one[3] + gap
    )


def test_outlines_span_their_boxes_and_stay_in_the_image(drawn: dict[str, list[SourceImage]]) -> None:
    for image in drawn["train"]:
        assert isinstance(image.content, bytes)
        height, width = decode_image(image.content, image.file_name).shape[:2]
        assert IMAGE_SIDES[0] <= min(width, height) and max(width, height) <= IMAGE_SIDES[1]
        for box in image.boxes:
            assert isinstance(box.segmentation, list)
            points = np.concatenate([np.reshape(flat, (-1, 2)) for flat in box.segmentation])
            x, y, w, h = box.box
            np.testing.assert_allclose(points.min(0), (x, y), atol=0.011)
            np.testing.assert_allclose(points.max(0), (x + w, y + h), atol=0.011)
            assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
            assert box.area is not None and 0 < box.area <= w * h


def test_digits_vary_in_size_and_hardly_overlap(drawn: dict[str, list[SourceImage]]) -> None:
    sides = [max(box.box[2:]) for image in drawn["train"] for box in image.boxes]
    assert min(sides) < 24 and max(sides) > 50
    assert min(sides) > 0.6 * DIGIT_SIZES[0] and max(sides) < 1.3 * DIGIT_SIZES[1]
    for image in drawn["train"]:
        for index, box in enumerate(image.boxes):
            for other in image.boxes[:index]:
                assert _share(box.box, other.box) <= MAX_OVERLAP + 0.01


def _share(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    sides = [min(one[i] + one[i + 2], two[i] + two[i + 2]) - max(one[i], two[i]) for i in (0, 1)]
    return max(sides[0], 0) * max(sides[1], 0) / min(one[2] * one[3], two[2] * two[3])


@pytest.mark.parametrize("degrees", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("size", [18.0, 41.5, 80.0])
def test_ink_has_the_size_and_centre_of_its_glyph(size: float, degrees: float) -> None:
    ring = np.zeros((8, 8), np.float32)
    ring[1:7, 1:7] = 1
    ring[3:5, 3:5] = 0
    ink = draw_ink(ring, size, degrees)
    assert len(ink.polygons) == 1
    x0, y0, x1, y1 = ink.box
    turned = np.cos(np.radians(degrees)) + abs(np.sin(np.radians(degrees)))
    # Six of eight glyph pixels; corners are rounded.
    assert 0.85 * 6 / 8 * size <= x1 - x0 <= 1.1 * 6 / 8 * size * turned
    assert abs((x1 - x0) - (y1 - y0)) <= 1.0
    assert ink.alpha.max() == 1.0 and ink.alpha[0].any() and ink.alpha[:, -1].any()
    middle = ink.alpha[ink.alpha.shape[0] // 2, ink.alpha.shape[1] // 2]
    assert middle < 0.2  # the hole stays open


def test_a_faint_joint_keeps_a_digit_in_one_piece() -> None:
    glyph = np.zeros((8, 8), np.float32)
    glyph[0:3, 3:5] = 1
    glyph[3, 3:5] = 0.42
    glyph[4:8, 3:5] = 1
    assert len(draw_ink(glyph, 60, 0).polygons) == 1


def test_an_empty_glyph_is_refused() -> None:
    with pytest.raises(ValueError, match="no ink"):
        draw_ink(np.zeros((8, 8), np.float32), 40, 0)


def test_the_default_dataset_is_quick_and_has_a_stable_digest(tmp_path: Path, config: Make) -> None:
    sizes = BuiltinConfig(train_images=480, val_images=80, test_images=80)
    started = time.process_time()
    first = materialise(config(builtin=sizes), tmp_path / "one")
    assert time.process_time() - started < 15
    assert _counts(first) == {"train": 480, "val": 80, "test": 80}
    assert first.splits["train"].boxes > 2000
    small = [materialise(config(), tmp_path / name).digest for name in ("two", "three")]
    assert small[0] == small[1] != first.digest
    assert materialise(config(seed=1), tmp_path / "four").digest != small[0]


def _counts(dataset: DetectionDataset) -> dict[str, int]:
    return {split: info.images for split, info in dataset.splits.items()}
