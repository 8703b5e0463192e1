"""COCO 2017: the official archives of train and val, from their site or a mirror.

123,287 images and 896,782 boxes; 20 GB to download, 20 GB more while they are unpacked. An archive
is deleted once its files are there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.dataset.config import DatasetConfig
from components.dataset.sources.archive import unpack
from components.dataset.sources.coco import read_coco
from components.dataset.sources.download import download
from components.dataset.sources.source import Source

NAME = "coco2017"
# Path below the address -> MD5, as published.
ARCHIVES = {
    "annotations/annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
    "zips/val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
    "zips/train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
}


class _Coco2017:
    """The word ``coco2017``."""

    form = NAME

    def takes(self, address: str) -> bool:
        """Whether it is that word."""
        return address == NAME

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Download what is missing, unpack it and read it."""
        root = fetch(config.coco2017_url, Path(config.downloads) / NAME)
        return replace(read_coco(root), name=NAME, address=address)


def fetch(url: str, folder: Path) -> Path:
    """Download and unpack the archives into ``folder/files`` unless they are there, and return that.

    Raises:
        UsageError, UnreachableError, DataError: as of `download` and `unpack`.
    """
    files = folder / "files"
    for path, md5 in ARCHIVES.items():
        archive = folder / Path(path).name
        done = archive.with_suffix(".done")
        if done.exists():
            continue
        download(f"{url.rstrip('/')}/{path}", archive, md5)
        unpack(archive, files)
        done.touch()
        archive.unlink()
    return files


ORIGIN = _Coco2017()
