"""``python -m components dataset --preview OUT.png``: what the dataset holds and what training sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from components.config import load_section
from components.dataset.preview import preview
from components.store import TrackingConfig
from components.train.config import TrainParams
from components.train.plan import make_plan
from components.train.pretrained import FETCHED, Registry
from components.train.settle import assumed
from yolo_core.data.coco import open_dataset
from yolo_core.data.loader import TrainLoaderSettings
from yolo_core.data.preview import augmentation_sheet
from yolo_core.engine.settings import augmentation_of


def draw_previews(folder: Path, target: Path, params: Mapping[str, Any], variant: str) -> list[Path]:
    """Draw two pages: ``target``, images as stored, and beside it NAME-training, as the params train.

    The second shows batches of the plan that the train stage would follow, then each augmentation alone.

    Args:
        folder: the dataset folder of a workspace, data/dataset.
        target: a .png or .jpg.
        params: all sections; of them ``train`` is read.
        variant: whose recipe is drawn; presets may differ by it.

    Returns:
        The pages' paths.

    Raises:
        UsageError, DataError: as `components.dataset.preview.preview` and `make_plan`.
    """
    preview(folder, target)
    dataset = open_dataset(folder)
    root = folder.parents[1]  # the workspace's, which paths in the params start from
    config = assumed(load_section(params, "train", TrainParams))
    registry = Registry(
        tracking=load_section(params, "tracking", TrackingConfig), root=root, folder=root / FETCHED
    )
    settings = make_plan(config, variant, dataset, root, registry).settings
    loading = TrainLoaderSettings(
        image_size=settings.image_size,
        batch_size=1,
        augmentation=augmentation_of(settings.hyperparameters),
        seed=settings.seed,
    )
    page = augmentation_sheet(dataset.samples("train"), dataset.names, loading)
    training = target.with_stem(f"{target.stem}-training")
    _, content = cv2.imencode(target.suffix.lower(), page)
    training.write_bytes(content.tobytes())
    return [target, training]
