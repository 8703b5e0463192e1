"""Canonical datasets to plant faults in, and a way to validate them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.dataset.builtin import DIGITS, builtin_splits
from components.dataset.config import BuiltinConfig
from components.job import Job
from components.tracking import NullTracker
from components.validate.config import ValidateConfig
from components.validate.work import run
from components.workspace import Workspace
from yolo_core.data.coco import class_table, write_dataset
from yolo_core.errors import GateError

LIMITS: dict[str, Any] = {
    "box_tolerance": 1.0,
    "min_box_side": 2.0,
    "duplicate_iou": 0.9,
    "near_duplicate_bits": 4,
    "min_instances": {"train": 1},
    "max_times_rarer": 100.0,
    "max_unlabelled": 0.2,
    "max_split_distance": 0.5,
    "max_drift": {"classes": 0.2, "box_sizes": 0.2, "brightness": 0.3},
    "champion": "auto",
    "drop_budget": 0.0,
    "severity": {},
}
SIZES = BuiltinConfig(train_images=12, val_images=3, test_images=3)


@pytest.fixture(scope="session")
def clean_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built-in dataset without a fault; copy it, don't write to it."""
    root = tmp_path_factory.mktemp("clean") / "dataset"
    splits = builtin_splits(SIZES, seed=0)
    write_dataset(root, splits, class_table(DIGITS), name="builtin", source="builtin")
    return root


@dataclass(frozen=True)
class Validated:
    """What became of a validation."""

    root: Path
    error: GateError | None
    result: dict[str, Any] | None

    @property
    def report(self) -> dict[str, Any]:
        """validation.json."""
        loaded: dict[str, Any] = json.loads((self.root / "reports" / "validation.json").read_text())
        return loaded

    def rule(self, name: str) -> dict[str, Any]:
        """What the report says of a rule."""
        (found,) = [rule for rule in self.report["rules"] if rule["rule"] == name]
        return dict(found)

    @property
    def broken(self) -> set[str]:
        """Names of the rules that do not hold."""
        return {rule["rule"] for rule in self.report["rules"] if not rule["success"]}


class Bench:
    """A workspace with a dataset to damage and then validate."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset = root / "data" / "dataset"

    def edit(self, change: Callable[[dict[str, Any]], None], split: str = "train") -> None:
        """Change the COCO content of a split in place."""
        path = self.dataset / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def validate(self, **changes: Any) -> Validated:
        """Run the stage and keep its error."""
        config = {**LIMITS, **changes}
        job = Job(
            stage="validate",
            variant=None,
            workspace=Workspace(root=self.root, uri=str(self.root)),
            tracker=NullTracker(),
            run_id="test",
            params={},
        )
        try:
            return Validated(self.root, None, run(ValidateConfig(**config), job))
        except GateError as error:
            return Validated(self.root, error, None)


@pytest.fixture(scope="session")
def validated_clean(tmp_path_factory: pytest.TempPathFactory, clean_dataset: Path) -> Validated:
    """A validation of the clean dataset; only to look at."""
    root = tmp_path_factory.mktemp("validated")
    shutil.copytree(clean_dataset, root / "data" / "dataset")
    return Bench(root).validate()


@pytest.fixture
def bench(tmp_path: Path, clean_dataset: Path) -> Bench:
    """A fresh copy of the clean dataset in a workspace."""
    shutil.copytree(clean_dataset, tmp_path / "data" / "dataset")
    return Bench(tmp_path)
