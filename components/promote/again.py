"""Measure a champion again: on the images of a challenger that came with another dataset."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.promote.case import Candidate, SizeFigure
from components.promote.config import SIZES
from components.promote.registry import RegisteredModel
from components.store import download
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.quarantine import without
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.coco_matching import coco_matches

if TYPE_CHECKING:
    from yolo_core.engine.evaluate import Evaluation
    from yolo_core.model.graph import DetectionModel

_log = logging.getLogger(__name__)


def measure_again(model: RegisteredModel, champion: str, challenger: Candidate, folder: Path) -> Candidate:
    """Evaluate a champion's checkpoint as the challenger was: same split, thresholds and precision.

    The image size is the best of the champion's own study; unless that is known, the one it was trained at.

    Args:
        model: of the registry.
        champion: version to evaluate.
        challenger: on whose images.
        folder: of the challenger's dataset.

    Raises:
        UsageError: the folder holds no or another dataset, or the champion knows other classes.
        DataError: the dataset is broken.
        UnreachableError: MLflow does not answer.
    """
    dataset = _challengers(challenger, folder)
    with tempfile.TemporaryDirectory(prefix="champion-") as scratch:
        network = _load(model.name, champion, Path(scratch))
    if tuple(network.names) != tuple(dataset.names):
        raise UsageError(
            f"it knows {len(network.names)} classes that are not the {len(dataset.names)} of the dataset; "
            "set promote.rules.ap, class_drop and size_drop to warn if that is meant"
        )
    noted = model.version(champion).tags.get("evaluation.image_size")
    settings = _settings(network, challenger, int(noted) if noted and noted.isdigit() else None)
    place = f"{challenger.split} of {dataset.name}"
    _log.info("measuring champion %s on %s, %d px", champion, place, settings.image_size)
    from yolo_core.engine.evaluate import evaluate

    found = evaluate(network.fuse().eval(), dataset, challenger.split, settings)
    return _as_candidate(champion, challenger, found)


def _as_candidate(champion: str, challenger: Candidate, found: Evaluation) -> Candidate:
    """Put an evaluation of a champion beside its challenger's evidence."""
    dataset = found.dataset
    truth = without(dataset.annotations(challenger.split), dataset.excluded)
    coco = found.coco()
    sizes = {size: getattr(coco, f"ap_{size}") for size in SIZES}
    return Candidate(
        version=champion,
        dataset_digest=dataset.digest,
        split=challenger.split,
        names=challenger.names,
        matches=coco_matches(truth, found.detections),
        sizes={size: SizeFigure(ap=ap if ap >= 0 else None, boxes=None) for size, ap in sizes.items()},
        facts={},
        how="measured again on the challenger's images",
    )


def _challengers(challenger: Candidate, folder: Path) -> DetectionDataset:
    remedy = f"bring dataset {challenger.dataset_digest} there, or name its workspace with --workspace"
    if not folder.is_dir():
        raise UsageError(f"there is no dataset at {folder}; {remedy}")
    dataset = open_dataset(folder)
    if dataset.digest != challenger.dataset_digest:
        raise UsageError(f"{folder} holds dataset {dataset.digest[:19]}; {remedy}")
    return dataset


def _load(name: str, version: str, scratch: Path) -> DetectionModel:
    """Fetch and load the checkpoint that a version carries."""
    from yolo_core.model.weights import load_checkpoint

    base = f"models:/{name}/{version}"
    about = yaml.safe_load(download(f"{base}/MLmodel", scratch).read_text(encoding="utf-8"))
    try:
        path = str(about["flavors"]["python_function"]["artifacts"]["checkpoint"]["path"])
    except (KeyError, TypeError):
        raise DataError(f"version {version} carries no checkpoint") from None
    return load_checkpoint(download(f"{base}/{path}", scratch))


def _settings(network: DetectionModel, challenger: Candidate, size: int | None) -> Any:
    """Return how the challenger was evaluated, at the champion's size in pixels; None: as it was trained."""
    import torch

    from yolo_core.engine.inference import EvalSettings
    from yolo_core.metrics.nms import NmsSettings
    from yolo_core.model.variants import get_variant

    said = challenger.facts["evaluation"].get("settings") or {}
    used = size or network.metadata.get("image_size") or get_variant(network.variant).train_size
    return EvalSettings(
        image_size=int(used),
        batch_size=int(said.get("batch_size") or 1),
        nms=NmsSettings(
            confidence=float(said.get("confidence", 0.001)), iou=float(said.get("iou", 0.7)), multi_label=True
        ),
        augment=bool(said.get("augment", False)),
        precision=str(said.get("precision", "fp32")),
        device="cuda" if torch.cuda.is_available() and said.get("device") == "cuda" else "cpu",
    )
