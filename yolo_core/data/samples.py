"""Images with their truth, as training and evaluation take them, from a COCO JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.images import Pixels, decode_image
from yolo_core.data.shards import Span, read_bytes
from yolo_core.data.writer import MANIFEST_FILE, ManifestRow, check_file_name
from yolo_core.errors import DataError

if TYPE_CHECKING:
    from yolo_core.data.coco import DetectionDataset

# How far a polygon's edge may be from its box's, as a share of the box's longer side.
_SPAN_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One image and its truth.

    Attributes:
        path: what the image is called, also in messages: its file, or, if it is in a shard, where that
            would be. Its bytes come from `read_bytes`, its pixels from `read_image`.
        width, height: of the stored pixels.
        boxes: (n, 4) xyxy in pixels, as annotated: not clipped to the image.
        classes: (n,) class index.
        crowd: (n,) whether the box stands for a group (COCO's iscrowd).
        polygons: per box its largest polygon, (k, 2) xy in pixels, or None where no single
            polygon spans the box.
        sha256: content digest of the file; empty when unknown.
        span: where in a shard the image is; None if it is a file.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    polygons: tuple[NDArray[np.float32] | None, ...]
    sha256: str = ""
    span: Span | None = None

    def read_bytes(self) -> bytes:
        """Read the image as it is stored: JPEG or PNG. Raises a `DataError` if it cannot be read."""
        return read_bytes(self.path, self.span)

    def read_image(self) -> Pixels:
        """Decode the image: (H, W, 3) BGR uint8. Raises a `DataError` if that cannot be done."""
        return decode_image(self.read_bytes(), str(self.path))


def build_samples(dataset: DetectionDataset, path: Path, coco: Mapping[str, Any]) -> list[Sample]:
    """Group the annotations of a COCO JSON by image.

    Args:
        dataset: whose manifest and shards have the images.
        path: of the JSON, for messages.
        coco: its content.

    Raises:
        DataError: an annotation names an unknown image or class, or the manifest lacks an image.
        KeyError, TypeError, ValueError: the content is no COCO JSON.
    """
    index_of = {number: index for index, number in enumerate(dataset.category_ids)}
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    if len(by_image) != len(coco["images"]):
        raise DataError(f"{path} uses an image id twice; write the dataset again")
    for annotation in coco["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        if annotation["image_id"] not in by_image:
            raise DataError(f"{where} names image {annotation['image_id']}, which is not listed")
        if annotation["category_id"] not in index_of:
            raise DataError(f"{where} names category {annotation['category_id']}, which is not listed")
        by_image[annotation["image_id"]].append(annotation)
    manifest = dataset.manifest()
    samples = []
    for image in coco["images"]:
        check_file_name(image["file_name"])
        row = manifest.get(f"images/{image['file_name']}")
        if row is None:
            raise DataError(
                f"{dataset.root / MANIFEST_FILE} lacks {image['file_name']}; write the dataset again"
            )
        samples.append(_sample(dataset, row, image, (by_image[image["id"]], index_of)))
    return samples


def _sample(
    dataset: DetectionDataset,
    row: ManifestRow,
    image: dict[str, Any],
    truth: tuple[list[dict[str, Any]], dict[int, int]],
) -> Sample:
    annotations, index_of = truth
    boxes = np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise DataError(f"{row.path}: a box has a coordinate that is not a number; correct the label")
    boxes[:, 2:] += boxes[:, :2]
    return Sample(
        image_id=image["id"],
        path=dataset.root / row.path,
        width=int(image["width"]),
        height=int(image["height"]),
        boxes=boxes.astype(np.float32),
        classes=np.array([index_of[annotation["category_id"]] for annotation in annotations], np.int64),
        crowd=np.array([bool(annotation["iscrowd"]) for annotation in annotations], np.bool_),
        polygons=tuple(
            _largest_polygon(annotation.get("segmentation"), box)
            for annotation, box in zip(annotations, boxes, strict=True)
        ),
        sha256=row.sha256,
        span=dataset.span(row.path),
    )


def _largest_polygon(segmentation: Any, box: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Return the polygon of the largest area, or None if there is none that spans the (xyxy) box.

    An object that something in front cuts in two has several polygons; none of them alone says
    where the object's box goes when the image is turned.
    """
    if not isinstance(segmentation, list):
        return None
    polygons = [np.array(flat, np.float32).reshape(-1, 2) for flat in segmentation if len(flat) >= 6]
    if not polygons:
        return None
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise ValueError("a polygon has a coordinate that is not a number")
    largest = max(polygons, key=_area) if len(polygons) > 1 else polygons[0]
    edges = np.concatenate([largest.min(0), largest.max(0)])
    tolerance = max(2.0, _SPAN_TOLERANCE * float((box[2:] - box[:2]).max()))
    return largest if np.abs(edges - box).max() <= tolerance else None


def _area(polygon: NDArray[np.float32]) -> float:
    """Return the area a polygon encloses (shoelace formula)."""
    x, y = polygon.astype(np.float64).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
