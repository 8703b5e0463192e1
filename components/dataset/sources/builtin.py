"""The built-in dataset as a source: drawn, not read."""

from __future__ import annotations

from pathlib import Path

from components.dataset.builtin import DIGITS, builtin_splits
from components.dataset.config import DatasetConfig
from components.dataset.sources.source import Source
from yolo_core.data.coco import class_table

NAME = "builtin"


class _Builtin:
    """The word ``builtin``."""

    form = NAME

    def takes(self, address: str) -> bool:
        """Whether it is that word."""
        return address == NAME

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Draw the images that the configuration asks for."""
        splits = {
            split: list(images) for split, images in builtin_splits(config.builtin, config.seed).items()
        }
        return Source(
            root=Path(),
            layout=NAME,
            classes=class_table(DIGITS),
            splits=splits,
            facts={},
            name=NAME,
            address=address,
        )


ORIGIN = _Builtin()
