"""The real data that some benchmarks need: COCO128 in YOLO's layout and the official yolov5n.

Both are looked for in the folder that the environment variable YOLO_TEST_ASSETS names, else in
``../shared/data`` beside the repository.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from yolo_core import load_checkpoint
from yolo_core.data.coco import DetectionDataset, SourceBox, SourceImage, class_table, write_dataset
from yolo_core.data.images import read_image
from yolo_core.model.graph import DetectionModel

ASSETS = Path(os.environ.get("YOLO_TEST_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "data"))
FOLDER = ASSETS / "coco128_yolo"
WEIGHTS = ASSETS / "weights" / "yolov5n.pt"


def stop_without_assets() -> None:
    """Say what is missing and end, successfully, where the data is not at hand."""
    missing = [path for path in (FOLDER, WEIGHTS) if not path.exists()]
    if missing:
        print(f"not measured: there is no {missing[0]}; set YOLO_TEST_ASSETS to the folder of the real data")
        sys.exit(0)


def official_model() -> DetectionModel:
    """Load the official v6.0 yolov5n, float32, in evaluation mode."""
    return load_checkpoint(WEIGHTS).float().eval()


def write_coco128(target: Path) -> DetectionDataset:
    """Write COCO128 as a canonical dataset: ``train`` has the 128 images, ``val`` every second of them."""
    splits = {split: [_source_image(path) for path in paths] for split, paths in split_paths().items()}
    names = yaml.safe_load((FOLDER / "data.yaml").read_text())["names"]
    return write_dataset(target, splits, class_table(names), name="coco128", source="COCO128")


def split_paths() -> dict[str, list[Path]]:
    """Paths of the images of both splits."""
    paths = sorted((FOLDER / "images/train2017").glob("*.jpg"))
    return {"train": paths, "val": paths[::2]}


def label_path(image: Path) -> Path:
    """Path of an image's labels; where it has none there is no file."""
    return FOLDER / "labels/train2017" / f"{image.stem}.txt"


def _source_image(path: Path) -> SourceImage:
    height, width = read_image(path).shape[:2]
    label = label_path(path)
    boxes = []
    for line in label.read_text().splitlines() if label.exists() else ():
        category, x, y, w, h = (float(word) for word in line.split())
        corner = ((x - w / 2) * width, (y - h / 2) * height)
        boxes.append(SourceBox(class_index=int(category), box=(*corner, w * width, h * height)))
    return SourceImage(file_name=path.name, content=path, boxes=boxes)
