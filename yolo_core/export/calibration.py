"""Which images quantisation measures activations on: a pinned, even choice of training images.

Integers replace floats best over the range that activations truly have, so the images come through the same
reader and letterbox as every other input of the model. They are never images that precision is measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.images import decode_image
from yolo_core.errors import DataError, UsageError
from yolo_core.export.base import ExportSettings
from yolo_core.export.parity import to_input

SPLIT = "train"
# With OpenVINO and the official yolov5n, 8 to 64 images of COCO128 differ by .3 points of AP without a trend;
# the more there are, the less one odd image counts, and 64 take some 6 s longer than 32.
COUNT = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationImages:
    """Images to calibrate with: what `ExportSettings.calibration` takes.

    Attributes:
        dataset: name of where they come from.
        samples: in the order in which they are used.
        image_size: height and width in pixels that each is letterboxed to.
    """

    dataset: str
    samples: tuple[Sample, ...]
    image_size: int

    def __call__(self) -> Iterator[Tensor]:
        """Yield each image, (1, 3, S, S) RGB in 0..1; one is held at a time.

        Raises:
            DataError: an image cannot be read, or is not the one that the dataset lists.
        """
        for sample in self.samples:
            content = sample.read_bytes()
            if hashlib.sha256(content).hexdigest() != sample.sha256:
                raise DataError(
                    f"{sample.path} has changed since the dataset was written; write the dataset again"
                )
            yield to_input(decode_image(content, str(sample.path)), self.image_size)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.samples)

    @property
    def files(self) -> dict[str, str]:
        """The pinned list: sha256 of each file by its name, in the order of use."""
        return {sample.path.name: sample.sha256 for sample in self.samples}

    @property
    def digest(self) -> str:
        """Return "sha256:<hex>" over the images' digests, in the order of use."""
        return f"sha256:{hashlib.sha256(' '.join(self.files.values()).encode()).hexdigest()}"


def choose_images(
    dataset: DetectionDataset, image_size: int, *, count: int = COUNT, measured_on: str | None = None
) -> CalibrationImages:
    """Choose training images, evenly spread over the split in the order of its annotations.

    One dataset always gives one choice.

    Args:
        dataset: whose training split is taken.
        image_size: height and width in pixels of the exported input.
        count: how many; where there are fewer, all are taken.
        measured_on: split on which precision is measured; no image of it is taken, be it by another name.

    Raises:
        DataError: no image is left.
    """
    taken = set()
    if measured_on is not None:
        taken = {row.sha256 for row in dataset.manifest().values() if row.split == measured_on}
    samples = [sample for sample in dataset.samples(SPLIT) if sample.sha256 not in taken]
    if not samples:
        raise DataError(
            f"{dataset.name} has no training images beside those of split {measured_on}, on which precision "
            "is measured; measure it on another split, or leave int8 formats out"
        )
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    chosen = tuple(samples[place] for place in places)
    return CalibrationImages(dataset=dataset.name, samples=chosen, image_size=image_size)


def about_calibration(settings: ExportSettings) -> Mapping[str, Any]:
    """Return what a calibrated file's metadata adds: number of images, and where known dataset and digest."""
    images = settings.calibration
    if isinstance(images, CalibrationImages):
        about = {"images": len(images), "dataset": images.dataset, "digest": images.digest}
    else:
        about = {"images": sum(1 for _ in settings.calibration_images())}
    return {"calibration": about}


def calibration_batches(settings: ExportSettings, fmt: str) -> Iterator[Tensor]:
    """Yield the calibration images in batches as a file takes them; the last image fills up the last batch.

    Args:
        settings: with the images, and the shape of the input.
        fmt: name of the format, for errors.

    Raises:
        UsageError: there are none, or one has another shape than (1, 3, S, S).
    """
    size, wanted = 1 if settings.dynamic else settings.batch_size, (1, *settings.shape[1:])
    images, found = settings.calibration_images(), False
    while group := list(islice(images, size)):
        found = True
        wrong = next((tuple(image.shape) for image in group if tuple(image.shape) != wanted), None)
        if wrong is not None:
            raise UsageError(f"a calibration image has the shape {wrong}, not {wanted}; letterbox it to that")
        yield torch.cat(group + group[-1:] * (size - len(group))).float()
    if not found:
        raise UsageError(f"format {fmt} got no images to calibrate it with; pass some")
