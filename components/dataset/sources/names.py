"""How people name splits and classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from components.dataset.sources.files import read_text

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# train2017, instances_val2017, valid, test-dev
_WORD = re.compile(r"[a-z]+")


def split_of(text: str) -> str | None:
    """Return the split that a file's or folder's name speaks of, or None: instances_val2017 -> val."""
    words = _WORD.findall(text.lower())
    for split, known in SPLIT_WORDS.items():
        if any(word in known for word in words):
            return split
    return None


def read_names(path: Path) -> list[str]:
    """Read class names, one a line; raises `DataError` if the file cannot be read."""
    lines = read_text(path).splitlines()
    return [line.strip() for line in lines if line.strip()]


def common_folder(paths: Iterable[Path]) -> Path:
    """Return the deepest folder that holds all the files."""
    parents = [path.parent.parts for path in paths]
    shared: list[str] = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return Path(*shared)
