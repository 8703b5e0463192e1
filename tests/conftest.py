"""Fixtures shared by every test: where real data, the specification and the goldens are."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from yolo_core.data.coco import ClassTable, SourceImage

REPO = Path(__file__).resolve().parents[1]
# These run in environments of their own, which `make test` calls first: their pins disagree with the rest.
collect_ignore = [name for name in ("dags", "kfp") if find_spec({"dags": "airflow"}.get(name, name)) is None]

if find_spec("hypothesis") is not None:
    from hypothesis import settings

    # A loaded machine may stall any example for a second, which says nothing about the code.
    settings.register_profile("project", deadline=None)
    settings.load_profile("project")


def _asset_root() -> Path:
    return Path(os.environ.get("YOLO_TEST_ASSETS", REPO.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPO


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of real test data (COCO128, BCCD, official weights); skips where it is missing."""
    root = _asset_root()
    if not root.is_dir():
        pytest.skip(f"no real test data at {root}; set YOLO_TEST_ASSETS")
    return root


@pytest.fixture(scope="session")
def spec_dir() -> Path:
    """Folder of the v6.0 facts (models.json, state_dict/); skips where it is missing."""
    return _beside_assets("spec")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the v6.0 goldens (forward.json, loss.json); skips where it is missing."""
    return _beside_assets("golden")


def _beside_assets(name: str) -> Path:
    root = _asset_root().parent / name
    if not root.is_dir():
        pytest.skip(f"no {name} folder at {root}; set YOLO_TEST_ASSETS to the data folder beside it")
    return root


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canonical dataset folder that trains in seconds: red and blue squares on grey, 64 px, two classes."""
    import cv2
    import numpy as np

    from yolo_core.data.coco import SourceBox, SourceImage, class_table, write_dataset

    def draw(seed: int, number: int) -> SourceImage:
        rng = np.random.default_rng((seed, number))
        image = np.full((64, 64, 3), 128, np.uint8) + rng.integers(0, 30, (64, 64, 1), dtype=np.uint8)
        boxes = []
        for category in (0, 1):
            side = int(rng.integers(14, 28))
            x, y = int(rng.integers(0, 64 - side)), int(rng.integers(32 * category, 32 * category + 4))
            image[y : y + side, x : x + side] = (255, 40, 40) if category else (40, 40, 255)
            height = min(side, 64 - y)
            boxes.append(
                SourceBox(class_index=category, box=(float(x), float(y), float(side), float(height)))
            )
        content = cv2.imencode(".png", image)[1].tobytes()
        return SourceImage(file_name=f"{number:03d}.png", content=content, boxes=boxes)

    counts = {"train": 24, "val": 8, "test": 8}
    splits = {
        split: [draw(seed, number) for number in range(count)]
        for seed, (split, count) in enumerate(counts.items())
    }
    root = tmp_path_factory.mktemp("squares") / "data" / "dataset"
    write_dataset(root, splits, class_table(["red", "blue"]), name="squares", source="drawn")
    return root


@pytest.fixture(scope="session")
def coco128(assets: Path) -> tuple[list[SourceImage], ClassTable]:
    """The images of COCO128 with their boxes, and COCO's 80 classes under COCO's own ids."""
    import yaml

    from yolo_core.data.coco import SourceBox, SourceImage, class_table, read_image

    root = assets / "coco128_yolo"
    images = []
    for path in sorted((root / "images/train2017").glob("*.jpg")):
        height, width = read_image(path).shape[:2]
        label = root / "labels/train2017" / f"{path.stem}.txt"
        boxes = []
        for line in label.read_text().splitlines() if label.exists() else ():
            category, x, y, w, h = (float(word) for word in line.split())
            corner = ((x - w / 2) * width, (y - h / 2) * height)
            boxes.append(SourceBox(class_index=int(category), box=(*corner, w * width, h * height)))
        images.append(SourceImage(file_name=path.name, content=path, boxes=boxes))
    names = yaml.safe_load((root / "data.yaml").read_text())["names"]
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # numbers that COCO left out
    return images, class_table(names, [number for number in range(1, 91) if number not in gaps])
