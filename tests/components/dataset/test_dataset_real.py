"""COCO128 and BCCD, as they were published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.dataset.config import DatasetConfig
from components.dataset.work import materialise
from yolo_core.data.coco import DetectionDataset

Config = Callable[..., DatasetConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


def write(config: Config, source: Path, target: Path, **changes: float) -> DetectionDataset:
    if not source.is_dir():
        pytest.skip(f"no {source}")
    return materialise(config(source=str(source), **changes), target)


def test_coco128_keeps_all_images_in_train_and_val(assets: Path, folder: Path, config: Config) -> None:
    dataset = write(config, assets / "coco128_yolo", folder / "coco128")
    assert {split: (info.images, info.boxes) for split, info in dataset.splits.items()} == {
        "train": (128, 929),
        "val": (128, 929),
    }
    assert len(dataset.names) == 80
    samples = dataset.samples("val")
    assert len(np.unique(np.concatenate([sample.classes for sample in samples]))) == 71
    assert sum(not len(sample.boxes) for sample in samples) == 2  # images without a label file
    outlined = sum(polygon is not None for sample in samples for polygon in sample.polygons)
    assert outlined > 680  # of 746 segments
    again = write(config, assets / "coco128_yolo", folder / "coco128_again")
    assert again.digest == dataset.digest


def test_coco128_boxes_are_those_of_the_labels(assets: Path, folder: Path, config: Config) -> None:
    dataset = write(config, assets / "coco128_yolo", folder / "coco128_boxes")
    for sample in dataset.samples("train")[::9]:
        path = assets / "coco128_yolo" / "labels" / "train2017" / f"{sample.path.stem}.txt"
        if not path.is_file():
            continue
        labels = np.loadtxt(path, ndmin=2)
        centre = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
        size = sample.boxes[:, 2:] - sample.boxes[:, :2]
        scale = (sample.width, sample.height)
        np.testing.assert_allclose(np.hstack([centre / scale, size / scale]), labels[:, 1:], atol=1e-5)
        np.testing.assert_array_equal(sample.classes, labels[:, 0])


def test_bccd_keeps_its_splits_and_all_boxes(assets: Path, folder: Path, config: Config) -> None:
    dataset = write(config, assets / "bccd_voc", folder / "bccd", val_fraction=0.2, test_fraction=0.2)
    assert {split: info.images for split, info in dataset.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert sum(info.boxes for info in dataset.splits.values()) == 4888
    assert dataset.names == ("Platelets", "RBC", "WBC")
    boxes = np.concatenate([sample.boxes for split in dataset.splits for sample in dataset.samples(split)])
    assert boxes.min() == 0 and boxes[:, 2].max() == 640 and boxes[:, 3].max() == 480
    first = next(
        s for split in dataset.splits for s in dataset.samples(split) if s.path.stem.endswith("00000")
    )
    np.testing.assert_array_equal(first.boxes[0], (259, 176, 491, 376))
    again = write(config, assets / "bccd_voc", folder / "bccd_again")
    assert again.digest == dataset.digest
