"""Datasets to test on: COCO128 as a canonical folder, and painted pictures whose boxes are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_core.data.coco import (
    DetectionDataset,
    SourceBox,
    SourceImage,
    class_table,
    write_dataset,
)
from yolo_core.data.images import probe_size
from yolo_core.data.samples import Sample

COLOURS = ((0, 0, 255), (0, 255, 0), (255, 0, 0))  # BGR of the classes red, green, blue


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    done, content = cv2.imencode(suffix, image)
    assert done
    return content.tobytes()


def painted(seed: int, *, width: int = 96, height: int = 64) -> SourceImage:
    """A black picture with one filled rectangle per class, each in its own column, box and polygon known."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    boxes = []
    column = width // 3
    for index, colour in enumerate(COLOURS):
        w, h = (int(rng.integers(12, limit - 8)) for limit in (column, height))
        x = index * column + int(rng.integers(3, column - w - 2))  # never at an edge: neighbours stay apart
        y = int(rng.integers(3, height - h - 2))
        image[y : y + h, x : x + w] = colour
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        boxes.append(SourceBox(class_index=index, box=(x, y, w, h), segmentation=[polygon]))
    return SourceImage(file_name=f"{seed:04}.png", content=encode(image), boxes=boxes)


@pytest.fixture(scope="session")
def painted_dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """24 training and 6 validation pictures of `painted`, of two shapes, and one empty picture."""
    empty = SourceImage(file_name="empty.png", content=encode(np.zeros((50, 50, 3), np.uint8)))
    train = [painted(seed, width=96 if seed % 2 else 150) for seed in range(23)] + [empty]
    val = [painted(seed, width=96 + 10 * (seed % 3)) for seed in range(100, 106)]
    return write_dataset(
        tmp_path_factory.mktemp("painted") / "dataset",
        {"train": train, "val": val},
        class_table(["red", "green", "blue"]),
        name="painted",
        source="tests",
    )


@pytest.fixture(scope="session")
def samples(painted_dataset: DetectionDataset) -> list[Sample]:
    """Its training pictures; don't change them."""
    return painted_dataset.samples("train")


@pytest.fixture(scope="session")
def coco128(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """The 128 real images, with polygons, as one training split."""
    names = [str(index) for index in range(80)]
    folder = tmp_path_factory.mktemp("coco128") / "dataset"
    splits = {"train": yolo_images(assets / "coco128_yolo")}
    return write_dataset(folder, splits, class_table(names), name="coco128", source="COCO128")


def yolo_images(root: Path) -> Iterator[SourceImage]:
    """Read COCO128's folder: one text file per image, rows of class, centre and size in 0..1.

    An outline belongs to the box that it spans; not every box has one.
    """
    for path in sorted((root / "images").rglob("*.jpg")):
        size = np.array(probe_size(path.read_bytes(), path.name), float)
        outlines = [(row[1:].reshape(-1, 2) * size) for row in _rows(root / "segments", path.stem)]
        boxes = []
        for row in _rows(root / "labels", path.stem):
            corner = (row[1:3] - row[3:5] / 2) * size
            edges = np.concatenate([corner, corner + row[3:5] * size])
            fits = [
                points.ravel().tolist()
                for points in outlines
                if np.abs(np.concatenate([points.min(0), points.max(0)]) - edges).max() < 2
            ]
            box = (*corner.tolist(), *(row[3:5] * size).tolist())
            boxes.append(SourceBox(class_index=int(row[0]), box=box, segmentation=fits[:1]))
        yield SourceImage(file_name=path.name, content=path, boxes=boxes)


def _rows(folder: Path, stem: str) -> list[np.ndarray]:
    path = next(folder.rglob(f"{stem}.txt"), None)
    return [np.array(line.split(), float) for line in path.read_text().splitlines()] if path else []


@pytest.fixture(scope="session")
def paint() -> Callable[..., SourceImage]:
    """The function `painted`, for tests that need their own pictures."""
    return painted


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """The function `encode`: pixels to the bytes of a PNG (or another suffix)."""
    return encode


@pytest.fixture
def small_folder(tmp_path: Path) -> DetectionDataset:
    """Three painted pictures in a folder that a test may break."""
    return write_dataset(
        tmp_path / "small",
        {"train": [painted(seed) for seed in range(3)]},
        class_table(["red", "green", "blue"], [3, 7, 11]),
        name="small",
        source="tests",
    )
