"""Fixtures shared by every test: where real data, the specification and the goldens are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


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
