"""Which layout a folder has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.dataset.sources.coco import find_annotation_files, read_coco
from components.dataset.sources.source import Source
from components.dataset.sources.voc import find_voc_root, read_voc
from components.dataset.sources.yolo import is_yolo, read_yolo
from yolo_core.errors import UsageError

_LOOKED_FOR = {
    "coco": "annotations/*.json with a list of images (or _annotations.coco.json beside the images)",
    "yolo": "data.yaml with names, or images/ and labels/ with classes.txt",
    "voc": "Annotations/*.xml (and JPEGImages/)",
}
_PRESENT: dict[str, Callable[[Path], bool]] = {
    "coco": lambda root: bool(find_annotation_files(root)),
    "yolo": is_yolo,
    "voc": lambda root: find_voc_root(root) is not None,
}
_READERS: dict[str, Callable[[Path], Source]] = {"coco": read_coco, "yolo": read_yolo, "voc": read_voc}


def read_source(root: Path, layout: str) -> Source:
    """Read a dataset folder; ``layout`` is coco, yolo, voc, or auto to look.

    Raises:
        UsageError: there is no such folder, or it has not the layout; the message says what was looked for.
        DataError: the data are wrong; lists up to ten faults with their file and line or id.
    """
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise UsageError(f"dataset.source {root} {what}; give 'builtin' or a COCO, YOLO or Pascal VOC folder")
    return _READERS[detect_layout(root, layout)](root)


def detect_layout(root: Path, layout: str) -> str:
    """Return the layout of a folder, which must be ``layout`` unless that is auto."""
    if layout != "auto":
        if not _PRESENT[layout](root):
            raise UsageError(f"{root} has not the {layout} layout: looked for {_LOOKED_FOR[layout]}")
        return layout
    found = [name for name, present in _PRESENT.items() if present(root)]
    if len(found) > 1:
        raise UsageError(f"{root} fits several layouts ({', '.join(found)}); choose one by dataset.format")
    if not found:
        looked = "; ".join(f"{name}: {what}" for name, what in _LOOKED_FOR.items())
        raise UsageError(f"{root} is no dataset of a known layout; looked for {looked}")
    return found[0]
