"""This project's own code, as something that can be told apart, copied and sent."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("components", "pipelines", "yolo_core")


def package_folders() -> dict[str, Path]:
    """Return where each package lies that this process imports."""
    found = {}
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None  # this module is in one of them
        found[name] = Path(spec.origin).parent
    return found


def code_digest(paths: Iterable[str] = PACKAGES) -> str:
    """Return the SHA-256 over every Python file at or below the paths, with its path: 64 hex digits.

    Paths are as `pipelines.stage.Stage.code` names them, such as ``yolo_core/model``.
    """
    folders = package_folders()
    total = hashlib.sha256()
    for path in paths:
        package, _, rest = path.partition("/")
        place = folders[package] / rest
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            total.update(f"{package}/{file.relative_to(folders[package]).as_posix()}\0".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def copy_code(target: Path) -> None:
    """Copy the packages into a folder, without what Python compiled of them."""
    for name, folder in package_folders().items():
        shutil.copytree(folder, target / name, ignore=shutil.ignore_patterns("__pycache__"))
