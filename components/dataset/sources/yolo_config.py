"""The YAML file of a YOLO folder: class names, and where the images of each split are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yolo_core.data.coco import SPLITS
from yolo_core.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class YoloConfig:
    """What a data.yaml says.

    Attributes:
        path: the file; None for a folder without one.
        base: folder that the entries start from.
        names: class names by index.
        entries: per split that is named, folders of images or text files that list images.
    """

    path: Path | None
    base: Path
    names: tuple[str, ...]
    entries: Mapping[str, tuple[str, ...]]


def find_config(root: Path) -> Path | None:
    """Return data.yaml, or the only other YAML file of the folder that has class names.

    Raises:
        UsageError: several others have.
    """
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    named = [path for path in files if path.stem == "data"]
    if named:
        return named[0]
    fitting = [path for path in files if _has_names(path)]
    if len(fitting) > 1:
        listed = ", ".join(path.name for path in fitting)
        raise UsageError(
            f"{root} has several files with class names ({listed}); keep one, or call it data.yaml"
        )
    return fitting[0] if fitting else None


def read_config(path: Path) -> YoloConfig:
    """Read a data.yaml.

    Raises:
        DataError: it is not YAML, or names and nc are missing, malformed or at odds.
    """
    content = _load(path)
    names = _read_names(path, content.get("names"))
    count = content.get("nc", len(names))
    if count != len(names):
        raise DataError(f"{path}: nc is {count}, but {len(names)} names are listed")
    base = path.parent / str(content.get("path") or "")
    entries = {}
    for split in SPLITS:
        # Some exporters write valid for val.
        value = content.get(split) or (content.get("valid") if split == "val" else None)
        if value:
            entries[split] = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    return YoloConfig(path=path, base=base, names=names, entries=entries)


def _has_names(path: Path) -> bool:
    try:
        return "names" in _load(path)
    except DataError:
        return False


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold keys (train, val, names, ...)")
    return content


def _read_names(path: Path, names: Any) -> tuple[str, ...]:
    """Return the names of a list, or of a mapping from 0, 1, 2, ..."""
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(f"{path}: names must be numbered 0, 1, 2, ... without a gap")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names must list the classes")
    return tuple(str(name) for name in names)
