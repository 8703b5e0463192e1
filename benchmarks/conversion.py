"""Seconds and memory to convert a COCO folder of COCO's size: 118,287 images, 860,001 boxes with polygons.

Run ``python benchmarks/conversion.py`` from the repository's root. Two times are given. The first is of the
annotations alone, from one JSON to the other: read, checked, converted and written, with sizes and digests
of images handed in. The second is of all that the stage does to write the dataset, with images of 16 x 16
pixels, which are decoded, hashed and packed. Making the folder is not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from components.config import load_section, read_params
from components.dataset.config import DatasetConfig
from components.dataset.pictures import PictureFacts
from components.dataset.sources import coco
from components.dataset.work import materialise
from yolo_core.data.coco import ManifestRow, SourceImage, write_dataset
from yolo_core.data.writer import FolderWriter

CLASSES, SIDE, POINTS = 80, 16, 20


def make_folder(root: Path, images: int, boxes: int) -> None:
    """Write a COCO folder whose annotation file has the size of instances_train2017.json, 450 MB."""
    rng = np.random.default_rng(0)
    folder = root / "train2017"
    folder.mkdir(parents=True)
    for number in range(images):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        cv2.imwrite(str(folder / f"{number:012d}.jpg"), pixels)
    corners = rng.uniform(0, SIDE / 2, (boxes, 2))
    sizes = rng.uniform(1, SIDE / 2, (boxes, 2))
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = (np.stack([np.cos(angles), np.sin(angles)], 1) + 1) / 2
    owners, classes = rng.integers(0, images, boxes), rng.integers(1, CLASSES + 1, boxes)
    (root / "annotations").mkdir()
    with (root / "annotations" / "instances_train2017.json").open("w") as file:
        listed = [
            {"id": n, "file_name": f"{n:012d}.jpg", "width": SIDE, "height": SIDE} for n in range(images)
        ]
        categories = [{"id": n, "name": f"class {n}"} for n in range(1, CLASSES + 1)]
        file.write(
            f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, "annotations": ['
        )
        for number in range(boxes):
            outline = np.round(corners[number] + circle * sizes[number], 2).ravel().tolist()
            box = [*corners[number].round(2).tolist(), *sizes[number].round(2).tolist()]
            record: dict[str, Any] = {"id": number + 1, "image_id": int(owners[number]), "bbox": box}
            record |= {"category_id": int(classes[number]), "area": round(box[2] * box[3] * 0.785, 3)}
            record |= {"iscrowd": 0, "segmentation": [outline]}
            file.write(f"{',' if number else ''}{json.dumps(record)}")
        file.write("]}")


def convert_annotations(root: Path, target: Path) -> tuple[float, float]:
    """Return the wall and CPU seconds from COCO's JSON to the canonical one, images aside."""
    known = PictureFacts(
        stored=(SIDE, SIDE), upright=(SIDE, SIDE), turned=False, convert=False, sha256="0" * 64, phash=0
    )

    def row(_writer: FolderWriter, split: str, image: SourceImage) -> ManifestRow:
        path = f"images/{split}/{image.file_name}"
        return ManifestRow(path=path, bytes=1, sha256=known.sha256, width=SIDE, height=SIDE, split=split)

    with (
        mock.patch.object(coco, "examine", lambda paths, _report: dict.fromkeys(paths, known)),
        mock.patch.object(FolderWriter, "_copy", row),
    ):
        return timed(lambda: _rewrite(root, target))


def _rewrite(root: Path, target: Path) -> None:
    source = coco.read_coco(root)
    write_dataset(target, source.splits, source.classes, name="coco", source="made")


def convert_all(root: Path, target: Path) -> tuple[float, float]:
    """Return the wall and CPU seconds of the stage's writing, images too."""
    section = read_params(Path("params.yaml"))
    section["dataset"] |= {"source": str(root), "val_fraction": 0.0, "test_fraction": 0.0}
    config = load_section(section, "dataset", DatasetConfig)
    return timed(lambda: materialise(config, target))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a call."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    """Make the folder, convert it both ways and print the seconds."""
    parser = argparse.ArgumentParser(description="Seconds to convert a COCO folder of COCO's size.")
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--boxes", type=int, default=860_001)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if none is given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        root = Path(name) / "coco"
        make_folder(root, arguments.images, arguments.boxes)
        size = (root / "annotations" / "instances_train2017.json").stat().st_size
        print(f"{arguments.images:,} images, {arguments.boxes:,} boxes, {size / 1e6:.0f} MB of JSON")
        for what, convert in (("annotations", convert_annotations), ("all, tiny images", convert_all)):
            seconds, cpu = convert(root, Path(name) / "dataset")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{what}: {seconds:.0f} s ({cpu:.0f} s of CPU), peak so far {peak:.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
