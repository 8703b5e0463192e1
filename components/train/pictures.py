"""Pictures of a training for its run: what it sees at the start, and how well it does at the end."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from components.plots import plot_confusion, plot_precision_recall
from components.sheet import PAPER, fit, sheet
from components.train.plan import TrainPlan
from components.train.plots import plot_labels
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.drawing import draw_boxes
from yolo_core.data.images import Pixels
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.data.preview import class_colour, contact_sheet
from yolo_core.engine.evaluate import Evaluation, Rows
from yolo_core.engine.settings import augmentation_of

_BATCHES, _PICTURES = 3, 16  # drawn batches, and images of each
_LEAST_SIDE, _MOST_SIDE = 320, 480  # pixels, of a batch's image: labels must be legible, the page not huge
_SAMPLES = 12
_SIDE, _GAP, _CAPTION = 400, 4, 24  # pixels, of a validation image, between its two, above them
_CONFIDENCE = 0.25
_INK = (30, 30, 30)


def draw_data(plan: TrainPlan, dataset: DetectionDataset, folder: Path) -> list[Path]:
    """Draw the labels and the first training batches into a folder; returns the pictures' paths."""
    samples, settings = dataset.samples("train"), plan.settings
    labels = folder / "labels.png"
    plot_labels(samples, dataset.names, labels)
    loader = TrainLoader(
        samples,
        TrainLoaderSettings(
            image_size=settings.image_size,
            batch_size=min(settings.batch_size, _PICTURES),
            augmentation=augmentation_of(settings.hyperparameters),
            seed=settings.seed,
        ),
    )
    side = min(max(settings.image_size, _LEAST_SIDE), _MOST_SIDE)
    drawn = [labels]
    for number, batch in enumerate(islice(loader, _BATCHES), 1):
        drawn.append(folder / f"train_batch_{number}.jpg")
        cv2.imwrite(str(drawn[-1]), contact_sheet([batch], dataset.names, limit=_PICTURES, side=side))
    return drawn


def draw_quality(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw confusion, precision over recall and sample images of an evaluation; returns their paths."""
    names = evaluation.dataset.names
    confusion, curve = folder / "confusion.png", folder / "precision_recall.png"
    plot_confusion(evaluation.confusion.matrix, names, confusion)
    plot_precision_recall(evaluation.metrics, names, curve)
    return [confusion, curve, draw_predictions(evaluation, folder / "predictions.jpg")]


def draw_predictions(evaluation: Evaluation, path: Path) -> Path:
    """Draw up to twelve images, spread over the split, each twice: the truth, and detections above 0.25."""
    samples = evaluation.dataset.samples(evaluation.split)
    samples = [sample for sample in samples if sample.image_id in evaluation.rows]
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples))).round().astype(int)
    pairs = [_pair(samples[index], evaluation.rows[samples[index].image_id], evaluation) for index in chosen]
    height = max(picture.shape[0] for _, picture in pairs)
    cv2.imwrite(str(path), sheet([_tile(*pair, height) for pair in pairs], columns=2))
    return path


def _pair(sample: Sample, rows: Rows, evaluation: Evaluation) -> tuple[str, Pixels]:
    """Return a caption and (H, 2 * 400 + 4, 3): the image with its truth, and with what was found."""
    names = evaluation.dataset.names
    truth, scale = fit(sample.read_image(), _SIDE)
    found = truth.copy()
    kept = rows[rows[:, 4] > _CONFIDENCE]  # the best first, so that its label finds a place
    for picture, boxes, classes, scores in (
        (truth, sample.boxes, sample.classes, None),
        (found, kept[:, :4], kept[:, 5].astype(int), kept[:, 4]),
    ):
        texts = [names[one] for one in classes]
        if scores is not None:
            texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
        draw_boxes(picture, boxes * scale, texts, [class_colour(one) for one in classes])
    both: Pixels = np.full((truth.shape[0], 2 * _SIDE + _GAP, 3), PAPER, np.uint8)
    both[:, : truth.shape[1]] = truth
    both[:, _SIDE + _GAP :][:, : found.shape[1]] = found
    return f"{sample.path.name[-36:]}: {len(sample.boxes)} true | {len(kept)} found", both


def _tile(caption: str, picture: Pixels, height: int) -> Pixels:
    tile: Pixels = np.full((height + _CAPTION, picture.shape[1], 3), PAPER, np.uint8)
    tile[_CAPTION:][: picture.shape[0]] = picture
    foot = (6, _CAPTION - 7)
    cv2.putText(tile, caption, foot, cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    return tile
