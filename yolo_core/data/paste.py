"""Copy-paste: outlined objects come again, mirrored, where there is room."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.geometry import Window
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Floats, Labels, joined
from yolo_core.data.mosaic import Canvas, ImageSource, Tile
from yolo_core.data.scratch import Scratch

_MAX_COVER = 0.30  # of an existing box's area
_SCRATCH = Scratch()  # per thread


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A drawn canvas as the only image of a source; see `yolo_core.data.mosaic.ImageSource`."""

    image: Pixels
    boxes: Labels

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def size(self, _index: int) -> tuple[int, int]:
        """Return its (width, height)."""
        return self.image.shape[1], self.image.shape[0]

    def pixels(self, _index: int) -> Pixels:
        """Return the pixels."""
        return self.image

    def labels(self, _index: int) -> Labels:
        """Return the boxes in pixels of the canvas."""
        return self.boxes


def pasted(
    canvas: Canvas, source: ImageSource, share: float, rng: np.random.Generator
) -> tuple[Canvas, ImageSource]:
    """Paste objects on a canvas; what is pasted may come from anywhere, so all of it is drawn now."""
    labels = canvas.labels(source)
    if not labels.counts.any():
        return canvas, source
    whole = Window(left=0, top=0, right=canvas.width, bottom=canvas.height)
    image, labels = copy_paste(canvas.pixels(source, whole, _SCRATCH, "pasted"), labels, share, rng)
    tile = Tile(index=0, place=whole)
    return replace(canvas, tiles=(tile,)), Drawn(image=image, boxes=labels)


def copy_paste(
    image: Pixels, labels: Labels, share: float, rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """Paste a share of the outlined objects again, mirrored left to right.

    An object is pasted where it covers every box that is there by less than 0.3 of that box.

    Args:
        image: (H, W, 3), changed in place.
        labels: its boxes; those with polygons can be copied.
        share: of the polygons, 0 to 1.
        rng: draws which.
    """
    outlined = np.flatnonzero(labels.counts)
    count = round(share * len(outlined))
    if count == 0:
        return image, labels
    chosen = rng.permutation(outlined)[:count]
    width = image.shape[1]
    mirrored = labels.boxes[chosen][:, [2, 1, 0, 3]] * np.array((-1, 1, -1, 1), np.float32)
    mirrored[:, ::2] += width
    accepted = _place(mirrored, labels.boxes)
    if not accepted.any():
        return image, labels
    mask = np.zeros(image.shape[:2], np.uint8)
    parts = [labels]
    for index, box in zip(chosen[accepted], mirrored[accepted], strict=True):
        outline = labels.polygon(int(index)) * np.array((-1, 1), np.float32) + np.array(
            (width, 0), np.float32
        )
        cv2.fillPoly(mask, [np.round(outline - 0.5).astype(np.int32)], 255)
        parts.append(
            Labels(
                classes=labels.classes[index : index + 1],
                boxes=box[None],
                counts=np.array([len(outline)]),
                points=outline,
            )
        )
    cv2.copyTo(cv2.flip(image, 1), mask, image)
    return image, joined(parts)


def _place(boxes: Floats, existing: Floats) -> NDArray[np.bool_]:
    """Tell which of the boxes (k, 4) may be pasted, one after another, on existing ones (n, 4)."""
    accepted: NDArray[np.bool_] = _cover(boxes, existing).max(axis=1) < _MAX_COVER
    among = _cover(boxes, boxes)
    for later in range(1, len(boxes)):
        accepted[later] &= not (among[later, :later][accepted[:later]] >= _MAX_COVER).any()
    return accepted


def _cover(boxes: Floats, existing: Floats) -> Floats:
    """Return (k, n) intersection over the area of the existing box."""
    low = np.maximum(boxes[:, None, :2], existing[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], existing[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    area = (existing[:, 2:] - existing[:, :2]).prod(axis=1)
    cover: Floats = overlap / np.maximum(area, 1e-9)
    return cover
