"""A workspace with a tiny dataset, and the params of a training that takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import load_section, read_params
from components.train.config import TrainConfig


@pytest.fixture
def make_config(repo: Path) -> Callable[..., TrainConfig]:
    """Build the shipped configuration with a few keys changed."""

    def build(**changes: Any) -> TrainConfig:
        params = read_params(repo / "params.yaml")
        quick = {"image_size": 64, "epochs": 2, "batch_size": 8, "cpus_per_worker": 1, "hflip": 0.0}
        params["train"] = {**params["train"], **quick, **changes}
        return load_section(params, "train", TrainConfig)

    return build
