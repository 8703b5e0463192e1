"""Contact sheets: pictures in a grid with their boxes drawn, to see what training sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
from torch import Tensor

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation
from yolo_core.data.coco import Sample
from yolo_core.data.drawing import draw_boxes
from yolo_core.data.images import Pixels
from yolo_core.data.letterbox import resize
from yolo_core.data.loader import TrainBatch, TrainLoader, TrainLoaderSettings

_GAP = 4  # white pixels between pictures
_ROW_PICTURE = 240  # pixels, side of a picture in a row
_ALONE: dict[str, dict[str, float]] = {
    "mosaic": {"mosaic": 1},
    "mixup of two mosaics": {"mosaic": 1, "mixup": 1},
    "copy-paste, where objects have outlines": {"copy_paste": 1},
    "scale and shift": {"scale": 0.5, "translate": 0.1},
    "turn, shear and perspective": {"degrees": 20, "shear": 8, "perspective": 0.0005},
    "colour": {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4},
    "flips": {"fliplr": 1, "flipud": 1},
}
_GOLDEN = 0.618033988749895  # steps of this much round the colour wheel keep neighbours apart


def contact_sheet(
    batches: Sequence[TrainBatch],
    names: Sequence[str],
    *,
    columns: int = 4,
    limit: int = 16,
    side: int | None = None,
) -> Pixels:
    """Draw the pictures of training batches with their boxes and class names.

    Args:
        batches: as `yolo_core.data.loader.TrainLoader` yields them, all of one image size.
        names: of the classes.
        columns: pictures per row.
        limit: pictures at most.
        side: of a picture on the sheet, in pixels; None keeps the batches'.

    Returns:
        (H, W, 3) BGR uint8, for `cv2.imwrite`.
    """
    pictures = [
        draw_targets(image, batch.targets[batch.targets[:, 0] == slot], names, side)
        for batch in batches
        for slot, image in enumerate(batch.images)
    ][:limit]
    if not pictures:
        raise ValueError("no pictures to draw")
    columns = min(columns, len(pictures))
    step = pictures[0].shape[0] + _GAP
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * step + _GAP, columns * step + _GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = _GAP + place // columns * step, _GAP + place % columns * step
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def augmentation_sheet(
    samples: Sequence[Sample], names: Sequence[str], settings: TrainLoaderSettings, *, columns: int = 6
) -> Pixels:
    """Draw training batches, then a row per augmentation, each alone and on the same images.

    What the settings leave out is shown too, at a strength that its title tells.

    Args:
        samples: images of a split.
        names: of the classes.
        settings: of the training; the batch size is taken from ``columns``.
        columns: pictures per row at most.

    Returns:
        (H, W, 3) BGR uint8, for `cv2.imwrite`.
    """
    columns = min(columns, len(samples))
    rows = []
    for title, strength, epochs in _rows(settings.augmentation):
        loader = TrainLoader(
            samples, replace(settings, batch_size=columns, world_size=1, rank=0, augmentation=strength)
        )
        batches = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            batches.append(next(iter(loader)))
        drawn = contact_sheet(batches, names, columns=columns, limit=columns * epochs, side=_ROW_PICTURE)
        rows += [_title(title, drawn.shape[1]), drawn]
    return np.concatenate(rows)


def _rows(recipe: Augmentation) -> Iterator[tuple[str, Augmentation, int]]:
    """Yield title, strengths and number of epochs of each row."""
    said = ", ".join(
        f"{name} {getattr(recipe, name):g}" for name in recipe.__dataclass_fields__ if getattr(recipe, name)
    )
    yield f"training batches: {said or 'no augmentation'}", recipe, 2
    yield "nothing", NO_AUGMENTATION, 1
    for title, values in _ALONE.items():
        shown = {}
        notes = []
        for name, value in values.items():
            mine = getattr(recipe, name)
            # A probability is shown at 1, a strength as it is, or at what makes it seen.
            shown[name] = 1.0 if value == 1 else mine or value
            notes.append(f"{name} {mine:g}" + ("" if shown[name] == mine else f", shown at {shown[name]:g}"))
        yield f"{title}: {'; '.join(notes)}", replace(NO_AUGMENTATION, **shown), 1


def _title(text: str, width: int) -> Pixels:
    strip: Pixels = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (_GAP, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def draw_targets(image: Tensor, targets: Tensor, names: Sequence[str], side: int | None = None) -> Pixels:
    """Draw boxes on one picture.

    Args:
        image: (3, S, S) uint8 RGB.
        targets: (m, 6) rows of image, class, then centre and size as shares of the side.
        names: of the classes.
        side: of the drawn picture; None takes S.

    Returns:
        (side, side, 3) BGR uint8.
    """
    picture = np.ascontiguousarray(image.numpy()[::-1].transpose(1, 2, 0))
    if side is not None:
        picture = resize(picture, side, side, smooth=True)
    rows = targets.numpy().astype(float)
    low, high = rows[:, 2:4] - rows[:, 4:6] / 2, rows[:, 2:4] + rows[:, 4:6] / 2
    boxes = np.concatenate((low, high), axis=1) * picture.shape[0]
    boxes[:, 2:] -= 1  # the last pixel of the box
    classes = rows[:, 1].astype(int)
    draw_boxes(picture, boxes, [names[one] for one in classes], [class_colour(one) for one in classes])
    return picture


def class_colour(index: int) -> tuple[int, int, int]:
    """Return a class's BGR colour: bright, and unlike its neighbours'."""
    hue = round(index * _GOLDEN % 1 * 179)
    blue, green, red = cv2.cvtColor(np.array([[[hue, 200, 255]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return int(blue), int(green), int(red)
