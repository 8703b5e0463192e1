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
from yolo_core.errors import DataError, UsageError


def read_source(root: Path, layout: str) -> Source:
    """Read a dataset folder; ``layout`` is the name of one, or auto to look.

    Raises:
        UsageError: there is no such folder, or it has not the layout; the message says what was looked for.
        DataError: the data are wrong; lists up to ten faults with their file and line or id.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UsageError(
            f"dataset.source {root} {what}; give a COCO, YOLO or Pascal VOC folder or an archive of one, "
            "'builtin', or another address of docs/data.md"
        )
    try:
        source = layouts()[detect_layout(root, layout)].read(root)
    except OSError as error:
        raise DataError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise DataError(f"{root}: an annotation file nests lists or objects too deeply") from None
    _check_text(source)
    return source


def _check_text(source: Source) -> None:
    """Refuse names that no file of ours could hold: those that are not Unicode, or cannot be shown.

    Raises:
        DataError: there is one.
    """
    for name in source.classes.names:
        if not name.isprintable() or not name.strip():
            raise DataError(f"{source.root}: the class name {name!a} cannot be shown; rename the class")
    for images in source.splits.values():
        for image in images:
            try:
                image.file_name.encode()
            except UnicodeEncodeError:
                name = ascii(image.file_name)
                raise DataError(
                    f"{source.root}: the file name {name} is not in UTF-8; rename the file"
                ) from None


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
