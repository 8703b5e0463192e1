"""Which layout a folder has.

A layout is a module of this package with a ``LAYOUT``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from components.dataset import sources
from components.dataset.sources.source import Layout, Source
from yolo_core.errors import UsageError


def read_source(root: Path, layout: str) -> Source:
    """Read a dataset folder; ``layout`` is the name of one, or auto to look.

    Raises:
        UsageError: there is no such folder, or it has not the layout; the message says what was looked for.
        DataError: the data are wrong; lists up to ten faults with their file and line or id.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UsageError(f"dataset.source {root} {what}; give 'builtin' or a COCO, YOLO or Pascal VOC folder")
    return layouts()[detect_layout(root, layout)].read(root)


def detect_layout(root: Path, layout: str) -> str:
    """Return the layout of a folder, which must be ``layout`` unless that is auto."""
    known = layouts()
    if layout != "auto":
        if not known[layout].present(root):
            raise UsageError(f"{root} has not the {layout} layout: looked for {known[layout].looked_for}")
        return layout
    found = [name for name, item in known.items() if item.present(root)]
    if len(found) > 1:
        raise UsageError(f"{root} fits several layouts ({', '.join(found)}); choose one by dataset.format")
    if not found:
        looked = "; ".join(f"{name}: {item.looked_for}" for name, item in known.items())
        raise UsageError(f"{root} is no dataset of a known layout; looked for {looked}")
    return found[0]


@cache
def layouts() -> dict[str, Layout]:
    """Return the known layouts by name."""
    return {layout.name: layout for layout in declared("LAYOUT")}


def declared(name: str) -> Iterator[Any]:
    """Yield what modules of this package call ``name``."""
    for found in iter_modules(sources.__path__, f"{sources.__name__}."):
        module = import_module(found.name)
        if hasattr(module, name):
            yield getattr(module, name)
