"""Small real things for the engine's tests: samples and a dataset folder of coloured squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from yolo_core.data.coco import DetectionDataset, Sample, open_dataset


@pytest.fixture(scope="session")
def dataset(squares: Path) -> DetectionDataset:
    """The folder of coloured squares, opened; nothing changes it."""
    return open_dataset(squares)


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Build a sample from plain lists."""

    def build(*, width: int, height: int, boxes: Sequence[Sequence[float]], polygons: bool = False) -> Sample:
        count = len(boxes)
        outline = np.array([[0, 0], [1, 0], [1, 1]], np.float32)
        return Sample(
            image_id=1,
            path=Path("none.jpg"),
            width=width,
            height=height,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.zeros(count, np.int64),
            crowd=np.zeros(count, bool),
            polygons=tuple(outline if polygons else None for _ in range(count)),
        )

    return build
