"""Splits that a source does not name, drawn from its training images by a seed.

Groups of images go to one split whole, and each class is shared out in the splits' proportions: iterative
stratification after Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011),
with groups in place of examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.dataset.config import DatasetConfig
from components.dataset.groups import Groups, group_images
from components.dataset.pictures import PictureFacts
from yolo_core.data.coco import SPLITS, SourceImage
from yolo_core.errors import DataError

Splits = dict[str, list[SourceImage]]
Table = NDArray[np.float64]
Counts = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """The splits, and how they came about, as dataset.json records it."""

    splits: Splits
    record: dict[str, Any]


def complete_splits(
    named: Mapping[str, list[SourceImage]], config: DatasetConfig, facts: Mapping[str, PictureFacts]
) -> SplitPlan:
    """Return the named splits, and those with a fraction that are not named, taken from "train".

    Args:
        named: splits of the source; "train" is among them.
        config: fractions, seed and rule of grouping. With the images it decides which goes where; their order
            does not matter.
        facts: of training images by file name; images of one content or look stay together.

    Raises:
        DataError: too few training images, or groups of them, to give every split one.
    """
    fractions = {"val": config.val_fraction, "test": config.test_fraction}
    missing = {split: share for split, share in fractions.items() if split not in named and share > 0}
    if not missing:
        return SplitPlan(splits=dict(named), record={"how": "given"})
    images = _sorted(named["train"])
    groups = group_images(images, facts, config.group_by, len(missing) + 1)
    wanted = {"train": 0.0} | {
        split: max(float(round(share * len(images))), 1.0) for split, share in missing.items()
    }
    wanted["train"] = len(images) - sum(wanted.values())
    if groups.count < len(wanted) or wanted["train"] < 1:
        raise DataError(
            f"{len(images)} training images in {groups.count} groups are too few to draw "
            f"{' and '.join(missing)} from them; add images, or set their fractions to 0"
        )
    places = _deal(images, groups, list(wanted.values()), config.seed)
    drawn: Splits = {split: [] for split in wanted}
    for image, group in zip(images, groups.of, strict=True):
        drawn[list(wanted)[places[group]]].append(image)
    kept = {split: images for split, images in named.items() if split != "train"}
    both = drawn | kept
    return SplitPlan(
        splits={split: both[split] for split in SPLITS if split in both},
        record={
            "how": "drawn",
            "shares": missing,
            "seed": config.seed,
            "stratified_by": "class",
            "groups": groups.count,
            "group_by": config.group_by,
            "images_grouped_by_look": groups.by_look,
            "images_grouped_by_name": groups.by_name,
        },
    )


def _deal(images: list[SourceImage], groups: Groups, wanted: list[float], seed: int) -> list[int]:
    """Return the split of each group.

    The class with the fewest boxes left to deal goes first. Each group that has it goes where most of the
    class is still wanted, then where most images are, then where the seed says.
    """
    counts = _class_counts(images, groups)  # (groups, classes)
    sizes = np.bincount(groups.of, minlength=groups.count).astype(np.float64)
    room = np.array(wanted)
    share = room / room.sum()
    desired = share[:, None] * counts.sum(0)  # (splits, classes)
    rng = np.random.default_rng(seed)
    order = rng.permutation(groups.count)
    order = order[np.argsort(-sizes[order], kind="stable")]  # large groups first: small ones fill the gaps
    places = np.full(groups.count, -1)
    left = counts.sum(0)

    def deal(index: int, need: Table) -> None:
        fitting = np.flatnonzero(need >= need.max() - 1e-9)
        if len(fitting) > 1:
            fitting = fitting[room[fitting] >= room[fitting].max() - 1e-9]
        place = int(fitting[rng.integers(len(fitting))])
        places[index] = place
        room[place] -= sizes[index]
        desired[place] -= counts[index]
        left[:] -= counts[index]

    for _ in range(counts.shape[1]):
        number = int(np.argmin(np.where(left > 0, left, np.inf)))
        for index in order[(counts[order, number] > 0) & (places[order] < 0)]:
            deal(int(index), desired[:, number])
    for index in order[places[order] < 0]:
        deal(int(index), room)
    _fill_empty(places, sizes, room)
    return [int(place) for place in places]


def _fill_empty(places: NDArray[np.int64], sizes: Table, room: Table) -> None:
    """Give a split that got nothing the smallest group of the one that is fullest and has several."""
    for split in range(len(room)):
        if (places == split).any():
            continue
        rich = [other for other in range(len(room)) if (places == other).sum() > 1]
        fullest = min(rich, key=lambda other: room[other])
        mine = np.flatnonzero(places == fullest)
        moved = mine[np.argmin(sizes[mine])]
        room[fullest] += sizes[moved]
        room[split] -= sizes[moved]
        places[moved] = split


def _class_counts(images: list[SourceImage], groups: Groups) -> Counts:
    """Return the boxes of each class in each group, (groups, classes)."""
    pairs = [
        (group, box.class_index)
        for image, group in zip(images, groups.of, strict=True)
        for box in image.boxes
    ]
    classes = max((number for _, number in pairs), default=-1) + 1
    counts: Counts = np.zeros((groups.count, classes), np.int32)
    if pairs:
        np.add.at(counts, tuple(np.array(pairs).T), 1)
    return counts


def _sorted(images: list[SourceImage]) -> list[SourceImage]:
    return sorted(images, key=lambda image: image.file_name)
