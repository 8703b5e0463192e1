"""The table of images: what the annotation files say of each, and what its file turns out to be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from components.validate.annotations import Content, as_key, is_count, malformed
from components.validate.looks import compare
from yolo_core.data.coco import SPLITS, DetectionDataset
from yolo_core.data.images import decode_image, probe_orientation
from yolo_core.data.phash import perceptual_hash
from yolo_core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = (
    *("row", "image_id", "split", "file", "malformed", "width", "height", "problem", "size_matches"),
    *("as_written", "sha256", "orientation", "brightness", "splits_with_it", "times_in_split"),
    *("like_in_split", "like_elsewhere", "looks_like", "gives_way"),
)
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "id": is_count,
    "file_name": lambda value: isinstance(value, str),
    "width": is_count,
    "height": is_count,
}
_WRITTEN = 11  # columns that the files say; the others compare files


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an image file turned out to be.

    Attributes:
        problem: why it is of no use; empty if it decodes.
        size: (width, height) of its pixels.
        sha256: content digest, hex.
        orientation: EXIF tag, 1 being upright.
        brightness: mean grey, 0..255.
        looks: perceptual hash.
    """

    problem: str = ""
    size: tuple[int, int] | None = None
    sha256: str = ""
    orientation: int = 1
    brightness: float = np.nan
    looks: int = 0


def look_at(content: bytes, name: str) -> Seen:
    """Digest and decode an image file, and hash what it shows."""
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        pixels = decode_image(content, name)
    except DataError as error:
        return Seen(problem=str(error).removeprefix(f"{name} ").split(";")[0], sha256=sha256)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    return Seen(
        size=(width, height),
        sha256=sha256,
        orientation=probe_orientation(content),
        brightness=float(cv2.mean(grey)[0]),
        looks=perceptual_hash(grey),
    )


def look_at_all(dataset: DetectionDataset, contents: Mapping[str, Content]) -> list[Seen]:
    """Look at every listed image, in threads: what takes long leaves Python's lock to others."""
    names = [item.get("file_name") for content in contents.values() for item in content["images"]]

    def look(name: Any) -> Seen:
        if not isinstance(name, str):
            return Seen(problem="has no file name")
        try:
            content = dataset.read_bytes(f"images/{name}")
        except DataError as error:
            return Seen(problem=str(error).removeprefix(f"{dataset.root / 'images' / name} ").split(";")[0])
        return look_at(content, name)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return list(pool.map(look, names))


def build_images(
    dataset: DetectionDataset, contents: Mapping[str, Content], seen: Sequence[Seen], bits: int
) -> pd.DataFrame:
    """Make the table.

    Args:
        dataset: whose manifest tells what was written.
        contents: the COCO JSON of each split.
        seen: what each image turned out to be, in the order of the files.
        bits: hashes that differ in at most so many are of images that look alike.
    """
    import pandas as pd

    manifest = dataset.manifest()
    listed = [(split, item) for split, content in contents.items() for item in content["images"]]
    records = []
    for row, ((split, item), found) in enumerate(zip(listed, seen, strict=True)):
        recorded = manifest.get(f"images/{item.get('file_name')}")
        size = (item.get("width"), item.get("height"))
        # Of a file that does not decode size and digest say nothing more.
        records.append(
            (
                *(row, as_key(item.get("id")), split, as_key(item.get("file_name"))),
                *(malformed(item, _TYPES), *map(as_key, size), found.problem),
                found.size is None or found.size == size,
                recorded is not None and found.sha256 in ("", recorded.sha256),
                found.sha256 or f"(none {row})",
            )
        )
    table = pd.DataFrame(records, columns=list(IMAGE_COLUMNS[:_WRITTEN]))
    table["orientation"] = np.array([found.orientation for found in seen], np.int64)
    table["brightness"] = np.array([found.brightness for found in seen], np.float64)
    table["splits_with_it"] = table.groupby("sha256")["split"].transform("nunique")
    table["times_in_split"] = table.groupby(["sha256", "split"])["row"].transform("size")
    _compare_looks(table, seen, bits)
    return table[list(IMAGE_COLUMNS)]


def _compare_looks(table: pd.DataFrame, seen: Sequence[Seen], bits: int) -> None:
    """Add how many files look like each image, which splits have them, and the first of them."""
    import pandas as pd

    table["like_in_split"], table["like_elsewhere"] = 0, ""
    table["looks_like"], table["gives_way"] = "", False
    rows = np.array([row for row, found in enumerate(seen) if not found.problem], np.int64)
    if not len(rows):
        return
    splits = [split for split in SPLITS if split in set(table["split"])]
    own = table["split"].map(splits.index).to_numpy(np.int64)[rows]
    files = pd.factorize(table["sha256"].to_numpy()[rows])[0].astype(np.int64)
    found = compare(np.array([seen[row].looks for row in rows], np.int64), files, own, bits)
    table.loc[rows, "like_in_split"] = found.like[np.arange(len(rows)), own]
    table.loc[rows, "like_elsewhere"] = [
        ", ".join(split for split, there in zip(splits, line, strict=True) if there)
        for line in found.elsewhere(own)
    ]
    names = table["file"].to_numpy()[rows]
    table.loc[rows, "looks_like"] = [f"images/{name}" for name in names[found.leader]]
    table.loc[rows, "gives_way"] = found.gives_way(own)
