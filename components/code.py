"""This project's own code, as something that can be told apart, copied and sent."""

from __future__ import annotations

import hashlib
import shutil
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


def code_digest() -> str:
    """Return the SHA-256 over every Python file of the packages with its path: 64 hex digits."""
    total = hashlib.sha256()
    for name, folder in package_folders().items():
        for path in sorted(folder.rglob("*.py")):
            total.update(f"{name}/{path.relative_to(folder).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def copy_code(target: Path) -> None:
    """Copy the packages into a folder, without what Python compiled of them."""
    for name, folder in package_folders().items():
        shutil.copytree(folder, target / name, ignore=shutil.ignore_patterns("__pycache__"))
