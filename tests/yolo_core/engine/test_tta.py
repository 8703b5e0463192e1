"""Three looks at an image: each in its own pixels, all answers in those of the image as given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from yolo_core.data.coco import ClassTable, SourceImage, write_dataset
from yolo_core.engine.evaluate import EvalSettings, detect, evaluate
from yolo_core.engine.tta import VIEWS, augmented
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.weights import load_checkpoint

BOX = (20, 30, 60, 100)  # x1, y1, x2, y2 of the white rectangle, left of the middle


class FindsWhite:
    """A detector that sees the extent of what is white, and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        found = []
        for image in images:
            rows, columns = torch.nonzero(image.mean(0) > 0.75, as_tuple=True)
            x1, x2, y1, y2 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
            found.append(torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)))
        boxes = torch.stack(found)[:, None]
        scores = torch.tensor([0.9, 1.0]) * torch.ones(len(images), 1, 1)
        return torch.cat((boxes, scores), 2)


def painted(height: int, width: int) -> Tensor:
    """A batch of a black image with the rectangle, and of the same upside down."""
    image = torch.zeros(3, height, width)
    x1, y1, x2, y2 = BOX
    image[:, y1:y2, x1:x2] = 1
    return torch.stack((image, image.flip(1)))


@pytest.mark.parametrize(("height", "width"), [(128, 192), (192, 128), (160, 160)])
def test_boxes_of_every_look_come_back_in_the_images_own_pixels(height: int, width: int) -> None:
    found = augmented(FindsWhite(), 32)(painted(height, width))
    assert found.shape == (2, 3, 6)
    x1, y1, x2, y2 = BOX
    for boxes, top in zip(found, (y1, height - y2), strict=True):
        expected = torch.tensor([(x1 + x2) / 2, top + (y2 - y1) / 2, x2 - x1, y2 - y1])
        assert (boxes[:, :4] - expected).abs().max() <= 1.5  # a pixel of the smallest look
        assert torch.equal(boxes[0, :4], expected)
    assert torch.equal(found[..., 4:], torch.tensor([0.9, 1.0]).expand(2, 3, 2))


def test_what_the_detector_is_shown() -> None:
    detector = FindsWhite()
    images = painted(128, 192)
    augmented(detector, 32)(images)
    assert torch.equal(detector.seen[0], images)
    assert [tuple(view.shape[2:]) for view in detector.seen] == [(128, 192), (128, 160), (96, 160)]
    for view, (scale, mirrored) in zip(detector.seen, VIEWS, strict=True):
        columns = torch.nonzero(view[0].mean(0) > 0.75)[:, 1].float()
        middle = scale * (192 - 40 if mirrored else 40)
        assert columns.mean().item() == pytest.approx(middle, abs=1)
    assert torch.equal(detector.seen[2][..., 86:, :], torch.full((2, 3, 10, 160), 114 / 255))


def test_an_array_is_as_good_as_a_tensor() -> None:
    assert augmented(lambda images: FindsWhite()(images).numpy(), 32)(painted(128, 128)).shape == (2, 3, 6)


def test_detect_and_evaluate_look_three_times() -> None:
    detector = FindsWhite()
    picture = (painted(128, 192)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    settings = EvalSettings(image_size=192, augment=True, nms=NmsSettings())
    (rows,) = detect(detector, [picture], settings)
    assert len(detector.seen) == 3
    assert len(rows) == 1  # the looks agree, and suppression leaves one
    assert np.abs(rows[0, :4] - BOX).max() <= 1.5
    detect(detector, [picture], replace(settings, augment=False))
    assert len(detector.seen) == 4


def test_the_official_model_is_no_worse_for_it(
    coco128: tuple[list[SourceImage], ClassTable], assets: Path, tmp_path: Path
) -> None:
    images, classes = coco128
    dataset = write_dataset(tmp_path / "d", {"train": images[:20]}, classes, name="d", source="COCO128")
    model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
    settings = EvalSettings(image_size=640)
    plain = evaluate(model, dataset, "train", settings).metrics
    three = evaluate(model, dataset, "train", replace(settings, augment=True)).metrics
    assert three.map > plain.map
    assert three.map50 > plain.map50
