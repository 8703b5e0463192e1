"""Which images belong together, so that a split made here does not show its test images to the training.

Together stay copies, pictures that look alike, and what file names say is of one source: frames of a clip,
augmented copies of a picture.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from components.dataset.config import GROUP_AUTO, GROUP_NONE
from components.dataset.pictures import PictureFacts
from yolo_core.data.coco import SourceImage
from yolo_core.data.phash import near_duplicates

_LOGGER = logging.getLogger(__name__)

MAX_DISTANCE = 6  # bits of 64 that two pictures' hashes may differ in and still be of one scene
# Labelling services append a word and a digest to every augmented copy: 0012_jpg.rf.0a1b2c
_COPY = re.compile(r"_(?:jpe?g|png)\.rf\.[0-9a-zA-Z]+$")
_COUNTER = re.compile(r"[\W_]*\d+$")
# Names are believed if at least this share of the classes can still be in every split.
_CLASSES_KEPT = 0.5


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Images in groups.

    Attributes:
        of: per image the number of its group, from 0.
        count: how many groups there are.
        by_look: images that are with others because they are copies or look alike.
        by_name: images that are with others because of their names; 0 where names were not believed.
    """

    of: list[int]
    count: int
    by_look: int
    by_name: int


def group_images(
    images: Sequence[SourceImage], facts: Mapping[str, PictureFacts], by: str, splits: int
) -> Groups:
    """Group images by look and by name.

    Args:
        images: sorted by file name.
        facts: of the images by file name; one without is like no other.
        by: ``dataset.group_by``.
        splits: how many splits are to be made of them.
    """
    looks = _by_look(images, facts)
    names = _by_name(images, by)
    if names is not None and by == GROUP_AUTO and not _spread(images, _joined(looks, names), splits):
        if len(set(names)) > 1:
            _LOGGER.warning(
                "file names begin with %d different words, too few to keep their images together; "
                "if they are sources, set dataset.group_by to a regular expression",
                len(set(names)),
            )
        names = None
    joined = _joined(looks, looks if names is None else names)
    return Groups(
        of=joined,
        count=len(set(joined)),
        by_look=_shared(looks),
        by_name=0 if names is None else _shared(names),
    )


def source_of(file_name: str, by: str) -> str:
    """Return what a file name says of its source: clip7 for clip7_0001.jpg. Folders are part of it.

    A name that a regular expression does not fit is a source of its own.
    """
    path = PurePosixPath(file_name)
    if by != GROUP_AUTO:
        found = re.search(by, file_name)
        if found is None:
            return file_name
        return found[1] or "" if found.re.groups else found[0]
    stem = str(path.parent / path.stem)
    plain = _COPY.sub("", stem)
    return plain if plain != stem else _COUNTER.sub("", stem)


def _by_look(images: Sequence[SourceImage], facts: Mapping[str, PictureFacts]) -> list[int]:
    """Return per image the first image that it is a copy of or looks like, itself if there is none."""
    known = [index for index, image in enumerate(images) if image.file_name in facts]
    found = list(range(len(images)))
    hashes = np.array([facts[images[index].file_name].phash for index in known], np.int64)
    for index, first in zip(known, near_duplicates(hashes, MAX_DISTANCE).tolist(), strict=True):
        found[index] = known[first]
    return found


def _by_name(images: Sequence[SourceImage], by: str) -> list[int] | None:
    if by == GROUP_NONE:
        return None
    numbers: dict[str, int] = {}
    return [numbers.setdefault(source_of(image.file_name, by), len(numbers)) for image in images]


def _joined(one: Sequence[int], two: Sequence[int]) -> list[int]:
    """Return the finest grouping that keeps together whatever either keeps together; numbered from 0."""
    parent = list(range(len(one)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for grouping in (one, two):
        first: dict[int, int] = {}
        for index, number in enumerate(grouping):
            parent[root(index)] = root(first.setdefault(number, index))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers)) for index in range(len(one))]


def _spread(images: Sequence[SourceImage], groups: Sequence[int], splits: int) -> bool:
    """Whether enough classes are in enough groups for every split to have them."""
    where: dict[int, set[int]] = defaultdict(set)
    images_of: Counter[int] = Counter()
    for image, group in zip(images, groups, strict=True):
        for number in {box.class_index for box in image.boxes}:
            where[number].add(group)
            images_of[number] += 1
    possible = [number for number, count in images_of.items() if count >= splits]
    if not possible:
        return len(set(groups)) >= splits
    kept = sum(len(where[number]) >= splits for number in possible)
    return kept >= _CLASSES_KEPT * len(possible)


def _shared(groups: Sequence[int]) -> int:
    """Count the images that are not alone in their group."""
    sizes = Counter(groups)
    return sum(size for size in sizes.values() if size > 1)
