"""Addresses of datasets: which kind each is, and the way to its files.

A kind of address is a module of this package with an ``ORIGIN``, and nothing else need be told of it. What
no kind takes is the path of a folder, or of an archive of one, on this machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from components.dataset.config import DatasetConfig
from components.dataset.sources.archive import SUFFIXES, is_archive, unpack_once, unpack_shards
from components.dataset.sources.detect import declared, read_source
from components.dataset.sources.source import Origin, Source
from yolo_core.errors import UsageError


def open_source(address: str, config: DatasetConfig) -> Source:
    """Bring the dataset at an address to this machine and read it.

    Raises:
        UsageError: the address is of no known kind, or nothing is there.
        DataError: images or annotations are wrong.
        UnreachableError: a server does not answer.
    """
    for origin in origins():
        if origin.takes(address):
            return origin.open(address, config)
    if "://" in address:
        forms = ", ".join(origin.form for origin in origins())
        raise UsageError(f"dataset.source {address} is of no known kind; give a folder, an archive, {forms}")
    return open_place(Path(address).expanduser(), address, config)


def open_place(place: Path, address: str, config: DatasetConfig) -> Source:
    """Read a folder, or an archive that is unpacked below ``config.downloads`` first.

    The dataset is called by the place's name.
    """
    name, root = place.resolve().name, place
    if is_archive(place):
        ending = next(suffix for suffix in SUFFIXES if name.lower().endswith(suffix))
        name, root = name[: -len(ending)], unpack_once(place, Path(config.downloads))
    root = unpack_shards(root, Path(config.downloads))
    return replace(read_source(root, config.format), name=name, address=address)


@cache
def origins() -> tuple[Origin, ...]:
    """Return the known kinds of addresses."""
    return tuple(declared("ORIGIN"))
