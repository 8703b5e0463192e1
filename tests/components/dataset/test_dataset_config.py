"""The dataset section: the project's params load, and bad values are named."""

from __future__ import annotations

from typing import Any

import pytest

from components.config import load_section
from components.dataset.config import DatasetConfig
from yolo_core.errors import UsageError


def test_the_shipped_params_load(params: dict[str, Any]) -> None:
    config = load_section(params, "dataset", DatasetConfig)
    assert config.source == "builtin"
    assert config.builtin.train_images == 480


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": " "}, "source is empty"),
        ({"format": "tfrecord"}, "choose one of auto, coco, yolo, voc"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"val_fraction": 1.0}, "val_fraction must lie in 0..1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"builtin": {"train_images": 0, "val_images": 1, "test_images": 1}}, "builtin.train_images"),
        ({"sorce": "x"}, "did you mean 'source'"),
    ],
)
def test_bad_values_are_named(params: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    params["dataset"].update(changes)
    with pytest.raises(UsageError, match=message):
        load_section(params, "dataset", DatasetConfig)
