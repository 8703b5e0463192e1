"""The contact sheet draws every picture with its boxes where they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.loader import TrainBatch, TrainLoader, TrainLoaderSettings
from yolo_core.data.preview import augmentation_sheet, class_colour, contact_sheet, draw_targets


def test_pictures_stand_in_a_grid(painted_dataset: DetectionDataset) -> None:
    settings = TrainLoaderSettings(image_size=64, batch_size=5, augmentation=NO_AUGMENTATION)
    batches = list(TrainLoader(painted_dataset.samples("train"), settings))
    sheet = contact_sheet(batches, painted_dataset.names, columns=4, limit=10)
    assert sheet.dtype == np.uint8 and sheet.shape == (3 * 68 + 4, 4 * 68 + 4, 3)
    last = sheet[2 * 68 + 4 :, 2 * 68 + 4 :]
    assert (last == 255).all()  # ten pictures leave two places white
    assert not (sheet[4:68, 4:68] == 255).all()
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet([], painted_dataset.names)


def test_boxes_are_drawn_where_they_are() -> None:
    image = torch.zeros((3, 200, 200), dtype=torch.uint8)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.2]])
    picture = draw_targets(image, targets, ["a", "b"])
    colour = class_colour(1)
    for x, y in ((60, 80), (139, 119), (100, 80), (60, 100)):
        assert tuple(picture[y, x].tolist()) == colour
    assert (picture[84:116, 64:136] == 0).all()


def test_it_draws_rgb_pictures_as_bgr() -> None:
    image = torch.zeros((1, 3, 8, 8), dtype=torch.uint8)
    image[:, 0] = 200
    batch = TrainBatch(images=image, targets=torch.zeros((0, 6)), paths=("x",), whole=1)
    assert contact_sheet([batch], [])[8, 8].tolist() == [0, 0, 200]


def test_neighbouring_classes_look_different() -> None:
    colours = [np.array(class_colour(index), int) for index in range(20)]
    assert len({tuple(colour) for colour in colours}) == 20
    for one, two in pairwise(colours):
        assert np.abs(one - two).max() > 60


def rows_of(sheet: np.ndarray, columns: int) -> list[np.ndarray]:
    """The rows of an augmentation sheet of 64 px pictures, without titles; the first is of two batches."""
    width = 244 * columns + 4
    heights = [244 * rows + 4 for rows in (2, *[1] * 8)]
    assert sheet.dtype == np.uint8 and sheet.shape == (sum(heights) + 28 * len(heights), width, 3)
    ends = np.cumsum(np.array(heights) + 28)
    return [sheet[end - height : end].astype(int) for end, height in zip(ends, heights, strict=True)]


def test_every_augmentation_has_a_row(painted_dataset: DetectionDataset) -> None:
    samples, names = painted_dataset.samples("train"), [" "] * 3
    settings = TrainLoaderSettings(image_size=64, batch_size=9, augmentation=Augmentation(fliplr=0.0))
    rows = rows_of(augmentation_sheet(samples, names, settings, columns=1), 1)
    nothing, flips = rows[1], rows[-1]
    for number, row in enumerate(rows[2:], 2):
        assert (np.abs(row - nothing) > 30).mean() > 0.01, number
    assert (np.abs(nothing - flips[::-1, ::-1]) > 60).mean() < 0.05
    rows_of(augmentation_sheet(samples[:2], names, settings), 2)


def test_the_first_row_is_the_recipes(painted_dataset: DetectionDataset) -> None:
    settings = TrainLoaderSettings(image_size=64, batch_size=1, augmentation=NO_AUGMENTATION)
    samples, names = painted_dataset.samples("train"), painted_dataset.names
    mixed = replace(settings, augmentation=Augmentation())
    still, moved = (
        rows_of(augmentation_sheet(samples, names, one, columns=3), 3) for one in (settings, mixed)
    )
    assert (still[0] != moved[0]).mean() > 0.3
    np.testing.assert_array_equal(still[1], moved[1])
