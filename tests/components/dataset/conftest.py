"""Small dataset folders of each layout, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components.dataset.config import BuiltinConfig, DatasetConfig

Write = Callable[..., Path]
Make = Callable[..., DatasetConfig]
Launch = Callable[..., Any]


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    """Write an image of random pixels, different for every seed; its suffix says which kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Make:
    """Make a configuration; by default of a tiny built-in dataset."""

    def make(**changes: Any) -> DatasetConfig:
        values: dict[str, Any] = {
            "source": "builtin",
            "format": "auto",
            "seed": 0,
            "val_fraction": 0.0,
            "test_fraction": 0.0,
            "group_by": "auto",
            "shard_above": 10_000,
            "downloads": str(tmp_path / "downloads"),
            "coco2017_url": "http://127.0.0.1:9",
            "builtin": BuiltinConfig(train_images=3, val_images=2, test_images=2),
        }
        return DatasetConfig(**{**values, **changes})

    return make


@pytest.fixture
def coco(tmp_path: Path) -> Write:
    """Make a COCO folder of 2 training images with the given annotations of image 7."""

    def make(annotations: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
        root = tmp_path / "coco"
        if annotations is None:
            annotations = [annotation()]
        content = {
            "images": [
                {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
                {"id": 9, "file_name": "b.jpg", "width": 40, "height": 30},
            ],
            "annotations": annotations,
            "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        }
        folder = root / "annotations"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "instances_train2017.json").write_text(json.dumps({**content, **changes}))
        picture(root / "train2017" / "a.jpg", seed=1)
        picture(root / "train2017" / "b.jpg", seed=2)
        return root

    return make


def annotation(**changes: Any) -> dict[str, Any]:
    """Return a good COCO annotation of image 7, changed."""
    good = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 6, 10, 8], "area": 70, "iscrowd": 0}
    return {**good, "segmentation": [[5, 6, 15, 6, 15, 14]], **changes}


@pytest.fixture
def yolo(tmp_path: Path) -> Write:
    """Make a YOLO folder of 2 training images; the text is the label file of the first."""

    def make(labels: str = "1 0.5 0.5 0.25 0.2\n", yaml: str | None = None) -> Path:
        root = tmp_path / "yolo"
        picture(root / "images" / "train" / "a.jpg", seed=1)
        picture(root / "images" / "train" / "b.png", seed=2)
        folder = root / "labels" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.txt").write_text(labels)
        (root / "data.yaml").write_text(yaml or "train: images/train\nnc: 2\nnames: [cat, dog]\n")
        return root

    return make


@pytest.fixture
def voc(tmp_path: Path) -> Write:
    """Make a VOC folder of 2 images; the text holds the objects of the first."""

    def make(objects: str | None = None, size: tuple[int, int] = (40, 30)) -> Path:
        root = tmp_path / "voc"
        for number, stem in enumerate(("a", "b")):
            picture(root / "JPEGImages" / f"{stem}.jpg", seed=number)
            inner = voc_object() if objects is None or stem == "b" else objects
            width, height = size
            text = f"<size><width>{width}</width><height>{height}</height></size>{inner}"
            path = root / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"<annotation>{text}</annotation>")
        return root

    return make


def voc_object(name: str = "cell", box: tuple[Any, ...] = (1, 1, 10, 5), extra: str = "") -> str:
    """Return the XML of an object."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"
