"""The images that quantisation is calibrated with: one choice, even, and never what is measured on."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from yolo_core.data.coco import DetectionDataset, SourceImage, class_table, open_dataset, write_dataset
from yolo_core.errors import DataError, UsageError
from yolo_core.export.backends import FORMATS
from yolo_core.export.base import ExportSettings
from yolo_core.export.calibration import about_calibration, choose_images
from yolo_core.export.parity import to_input


@pytest.fixture(scope="module")
def dataset(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Ten photos of COCO to train on and three to validate on, one of which is among the ten, too."""
    paths = sorted(assets.glob("coco128_yolo/**/*.jpg"))[:12]
    splits = {"train": paths[:10], "val": [*paths[10:], paths[0]]}
    images = {
        split: [SourceImage(file_name=f"{split}-{path.name}", content=path, boxes=[]) for path in of_split]
        for split, of_split in splits.items()
    }
    target = tmp_path_factory.mktemp("calibration") / "dataset"
    return write_dataset(target, images, class_table(["thing"]), name="twelve", source="COCO128")


def test_an_even_choice_that_stays_the_same(dataset: DetectionDataset) -> None:
    chosen = choose_images(dataset, 64, count=4)
    names = [sample.path.name for sample in dataset.samples("train")]
    assert list(chosen.files) == [names[place] for place in (0, 3, 6, 9)]
    again = choose_images(open_dataset(dataset.root), 64, count=4)
    assert (again.files, again.digest) == (chosen.files, chosen.digest)
    assert choose_images(dataset, 64, count=3).digest != chosen.digest
    assert len(choose_images(dataset, 64)) == 10, "all, where there are fewer than asked for"


def test_the_list_names_what_is_read(dataset: DetectionDataset) -> None:
    chosen = choose_images(dataset, 64, count=3)
    for sample, image in zip(chosen.samples, chosen(), strict=True):
        content = sample.path.read_bytes()
        assert chosen.files[sample.path.name] == hashlib.sha256(content).hexdigest()
        assert image.shape == (1, 3, 64, 64)
        assert torch.equal(image, to_input(sample.read_image(), 64))
    assert len(list(chosen())) == 3, "it can be read again"


def test_no_image_on_which_precision_is_measured(dataset: DetectionDataset) -> None:
    measured = {sample.sha256 for sample in dataset.samples("val")}
    assert measured & set(choose_images(dataset, 64).files.values())
    apart = choose_images(dataset, 64, measured_on="val")
    assert len(apart) == 9
    assert not measured & set(apart.files.values())
    with pytest.raises(DataError, match="twelve has no training images beside those of split train"):
        choose_images(dataset, 64, measured_on="train")


def test_an_image_that_is_not_the_listed_one(dataset: DetectionDataset, tmp_path: Path) -> None:
    copied = open_dataset(shutil.copytree(dataset.root, tmp_path / "dataset"))
    chosen = choose_images(copied, 64, count=2)
    shutil.copy(chosen.samples[0].path, chosen.samples[1].path)
    with pytest.raises(DataError, match="has changed since the dataset was written"):
        list(chosen())


def test_what_a_file_says_of_it(dataset: DetectionDataset) -> None:
    chosen = choose_images(dataset, 64, count=2)
    about = about_calibration(ExportSettings(image_size=64, calibration=chosen))
    assert about == {"calibration": {"images": 2, "dataset": "twelve", "digest": chosen.digest}}
    plain = ExportSettings(image_size=64, calibration=[torch.zeros(1, 3, 64, 64)])
    assert about_calibration(plain) == {"calibration": {"images": 1}}


def test_formats_that_need_images_refuse_to_go_without() -> None:
    needy = [fmt for fmt in FORMATS.values() if fmt.calibrated]
    for fmt in needy:
        with pytest.raises(UsageError, match=f"format {fmt.name} needs images to calibrate it with"):
            fmt.check_settings(ExportSettings(image_size=64))
