"""Validation of a dataset of COCO's size, and how fast images are looked at.

Run ``python benchmarks/validation.py`` from the repository's root. First a dataset of 118,000 images and
860,000 boxes with outlines, drawn by chance, goes through the whole validate stage with all its reports;
its images are not there, what they are is made up. Then a core decodes, digests and hashes JPEG images of
640x480 pixels; process CPU time is counted, so a busy machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

from components.config import load_section
from components.job import Job
from components.tracking import NullTracker
from components.validate.config import ValidateConfig
from components.validate.images import Seen, look_at
from components.validate.work import DATASET, run
from components.workspace import Workspace

CLASSES, POINTS = 80, 12
SIZE = (640, 480)  # pixels, width and height


def write_synthetic(root: Path, images: int, boxes: int) -> list[Seen]:
    """Write a canonical folder without its images; returns what the images would turn out to be."""
    rng = np.random.default_rng(0)
    rows, seen, listed = [], [], []
    for number, looks in enumerate(rng.integers(-(2**62), 2**62, images).tolist()):
        name, digest = f"train/{number:06}.jpg", f"{number:064x}"
        listed.append({"id": number + 1, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        rows.append(f"images/{name},100000,{digest},{SIZE[0]},{SIZE[1]},train")
        seen.append(Seen(size=SIZE, sha256=digest, brightness=looks % 256, looks=looks))
    (root / "annotations").mkdir(parents=True)
    header = "path,bytes,sha256,width,height,split"
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    categories = [{"id": index + 1, "name": f"class {index}"} for index in range(CLASSES)]
    content = {"images": listed, "annotations": _annotations(rng, images, boxes), "categories": categories}
    (root / "annotations" / "train.json").write_text(json.dumps(content, separators=(",", ":")))
    about = {
        "format": 1,
        "name": "synthetic",
        "source": "drawn",
        "names": [category["name"] for category in categories],
        "category_ids": [category["id"] for category in categories],
        "splits": {"train": {"images": images, "boxes": boxes}},
        "digest": "sha256:0",
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return seen


def _annotations(rng: np.random.Generator, images: int, boxes: int) -> list[dict[str, object]]:
    sides = np.exp(rng.uniform(np.log(4), np.log(300), (boxes, 2))).round(2)
    corners = (rng.random((boxes, 2)) * (np.array(SIZE) - sides)).round(2)
    turns = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = np.stack((np.cos(turns), np.sin(turns)), axis=1) / 2 + 0.5
    owners = rng.integers(1, images + 1, boxes).tolist()
    kinds = rng.integers(1, CLASSES + 1, boxes).tolist()
    return [
        {
            "id": number + 1,
            "image_id": owners[number],
            "category_id": kinds[number],
            "bbox": [*corner.tolist(), *side.tolist()],
            "area": round(float(side.prod()) * 0.75, 2),
            "iscrowd": 0,
            "segmentation": [(circle * side + corner).round(2).ravel().tolist()],
        }
        for number, (corner, side) in enumerate(zip(corners, sides, strict=True))
    ]


def measure_validation(images: int, boxes: int) -> None:
    """Run the stage on a synthetic dataset and print its time and memory."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    config = load_section(params, "validate", ValidateConfig)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seen = write_synthetic(root / DATASET, images, boxes)
        # A process of its own, so that the memory of drawing the dataset does not count.
        import multiprocessing

        worker = multiprocessing.get_context("forkserver").Process(
            target=_validate, args=(root, config, seen)
        )
        worker.start()
        worker.join()
        if worker.exitcode:
            raise SystemExit(worker.exitcode)


def _validate(root: Path, config: ValidateConfig, seen: list[Seen]) -> None:
    job = Job(
        stage="validate",
        variant=None,
        workspace=Workspace(root=root, uri=str(root)),
        tracker=NullTracker(),
        run_id="benchmark",
        params={},
    )
    wall, cpu = time.monotonic(), time.process_time()
    found = run(config, job, seen)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"validated {found['annotations']:,} boxes of {found['images']:,} images in {wall:.1f} s "
        f"({cpu:.1f} CPU-seconds), at most {memory:.2f} GiB"
    )


def measure_images(count: int) -> None:
    """Print how many images of 640x480 a core looks at per second."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(16):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 12, image.shape, dtype=np.uint8)
        contents.append(cv2.imencode(".jpg", cv2.add(image, noise))[1].tobytes())
    cv2.setNumThreads(1)
    cpu = time.process_time()
    for number in range(count):
        assert not look_at(contents[number % len(contents)], "image").problem
    rate = count / (time.process_time() - cpu)
    kilobytes = sum(map(len, contents)) / len(contents) / 1000
    print(f"looked at {rate:.0f} images of {SIZE[0]}x{SIZE[1]} ({kilobytes:.0f} kB) per core-second")


def main() -> None:
    """Measure and print both."""
    parser = argparse.ArgumentParser(description="Speed and memory of the validate stage.")
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    arguments = parser.parse_args()
    measure_images(500)
    measure_validation(arguments.images, arguments.boxes)


if __name__ == "__main__":
    main()
