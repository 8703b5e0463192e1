"""What the export stage works on: weights, settings and images, checked before anything is written."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.code import code_digest
from components.export.config import ExportConfig
from components.export.images import pick_images
from components.job import Job
from yolo_core.data.coco import open_dataset
from yolo_core.engine.inference import usable_size
from yolo_core.errors import UsageError
from yolo_core.export.backends import get_format
from yolo_core.export.base import ExportSettings
from yolo_core.export.calibration import CalibrationImages, choose_images
from yolo_core.export.files import digest_of
from yolo_core.export.parity_evidence import Chosen
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.graph import DetectionModel
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import load_checkpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is exported, and what it is compared on; ``calibration`` is None where no format needs any."""

    model: DetectionModel
    weights: Path
    settings: ExportSettings
    chosen: Chosen
    calibration: CalibrationImages | None

    @property
    def variant(self) -> str:
        """Name of the model's variant."""
        return self.model.variant

    def told(self, calibration_images: int) -> dict[str, Any]:
        """Return the settings for JSON; `yolo_core.export.parity_tasks.settings_of` reads them."""
        told = asdict(replace(self.settings, calibration=None))
        if self.calibration is not None:
            told["calibration"] = {
                "dataset": str(self.chosen.dataset.root),
                "count": calibration_images,
                "measured_on": self.chosen.split,
            }
        return told


def prepare(config: ExportConfig, job: Job) -> Subject:
    """Open dataset and weights, and find what does not fit before anything is written.

    Raises:
        UsageError: no variant was named, its weights or a format's toolkit are missing, a format cannot do
            what was asked for, or the weights know other classes than the dataset.
        DataError: the dataset is broken, or has no images to calibrate with.
    """
    if job.variant is None:
        raise UsageError("export needs a model variant; pass --variant yolov5n")
    check_toolkits(config.formats)
    weights = job.path("models/{variant}") / "best.safetensors"
    if not weights.is_file():
        raise UsageError(f"no weights at {weights}; run `python -m components train --variant {job.variant}`")
    model = load_checkpoint(weights, variant=job.variant)
    dataset = open_dataset(job.path("data/dataset"))
    if model.names != dataset.names:
        raise UsageError(f"{weights} knows other classes than {dataset.root}; train on this dataset first")
    trained = int(model.metadata.get("image_size") or get_variant(model.variant).train_size)
    chosen = pick_images(dataset, config.split, config.ap_images, config.parity_images)
    settings = ExportSettings(
        image_size=usable_size(model, config.image_size or trained),
        batch_size=config.batch_size,
        dynamic=config.dynamic,
        opset=config.opset,
        simplify=config.simplify,
        nms=NmsSettings(**asdict(config.nms)),
        model_digest=digest_of(weights),
        dataset_digest=dataset.digest,
        code_digest=f"sha256:{code_digest()}",
        licence=config.licence or "",
    )
    calibration = None
    if any(get_format(name).calibrated for name in config.formats):
        calibration = choose_images(
            dataset, settings.image_size, count=config.calibration_images, measured_on=chosen.split
        )
    for name in config.formats:
        get_format(name).check_settings(replace(settings, calibration=calibration))
    return Subject(model=model, weights=weights, settings=settings, chosen=chosen, calibration=calibration)


def check_toolkits(names: tuple[str, ...]) -> None:
    """Raise `UsageError` naming the extra if a toolkit is not installed.

    None is imported, for some cannot be in one process: each format's own check follows in its own.
    """
    for name in names:
        fmt = get_format(name)
        missing = [package for package in fmt.packages if find_spec(package.partition(".")[0]) is None]
        if missing or not fmt.packages:  # without any it asks for something else, such as a GPU
            fmt.check_toolkit()
