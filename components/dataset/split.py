"""Splits that a source does not name, drawn from its training images by a seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from yolo_core.data.coco import SourceImage
from yolo_core.errors import DataError

Splits = dict[str, list[SourceImage]]


def complete_splits(
    named: Mapping[str, list[SourceImage]],
    fractions: Mapping[str, float],
    content: Mapping[str, str],
    seed: int,
) -> Splits:
    """Return the named splits, and those of ``fractions`` that are not named, taken from "train".

    Args:
        named: splits of the source; "train" is among them.
        fractions: of "val" and "test", the share of the training images each takes if it is not named.
        content: file name of a training image -> digest; images of one content stay together.
        seed: with the file names alone decides which image goes where.

    Raises:
        DataError: too few training images to give every split one.
    """
    missing = {split: share for split, share in fractions.items() if split not in named and share > 0}
    if not missing:
        return dict(named)
    groups = _groups(named["train"], content)
    order = np.random.default_rng(seed).permutation(len(groups))
    total, start = len(named["train"]), 0
    taken: Splits = {}
    for split, share in missing.items():
        wanted = max(round(share * total), 1)
        taken[split] = []
        while len(taken[split]) < wanted and start < len(groups):
            taken[split] += groups[order[start]]
            start += 1
    rest = [image for index in order[start:] for image in groups[index]]
    if not rest or not all(taken.values()):
        raise DataError(
            f"{total} training images are too few to draw {' and '.join(missing)} from them; "
            "add images, or set their fractions to 0"
        )
    return {"train": _sorted(rest)} | {
        split: named[split] if split in named else _sorted(taken[split])
        for split in ("val", "test")
        if split in named or split in taken
    }


def _groups(images: list[SourceImage], content: Mapping[str, str]) -> list[list[SourceImage]]:
    """Group images of one content, so that a copy does not end in another split; sorted by file name."""
    groups: dict[str, list[SourceImage]] = {}
    for image in _sorted(images):
        groups.setdefault(content.get(image.file_name, image.file_name), []).append(image)
    return list(groups.values())


def _sorted(images: list[SourceImage]) -> list[SourceImage]:
    return sorted(images, key=lambda image: image.file_name)
