from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes; it fails where CycloneDX's schema does not agree."""
    target = tmp_path_factory.mktemp("sbom") / "new"
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [repo / "scripts/sbom.sh", target], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Warning:" not in done.stderr.replace("WARNING:", "")
    return target


@pytest.mark.parametrize("lock", ["ml", "airflow", "kfp"])
def test_each_pin_of_a_lock_is_a_component(lock: str, folder: Path, repo: Path) -> None:
    listed = json.loads((folder / f"{lock}.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "yolo-mlops"
    lines = (repo / f"requirements/{lock}.txt").read_text().splitlines()
    pins = {line for line in lines if "==" in line}
    assert {f"{one['name']}=={one['version']}" for one in listed["components"]} == pins
