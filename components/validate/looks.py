"""Which images look like others, in their split and across splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.phash import near_duplicates, near_pairs

_Bools = NDArray[np.bool_]
_Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What the comparison says of each of n images, over s splits.

    Attributes:
        like: (n, s) how many other files of a split look like it; copies of the file itself don't count.
        copies: (n, s) whether a split has the very same file.
        leader: (n,) the first image of those that look alike, directly or through others.
    """

    like: _Integers
    copies: _Bools
    leader: _Integers

    def elsewhere(self, split: _Integers) -> _Bools:
        """Tell which (n, s) splits other than an image's own have one that looks like it."""
        return (self.like > 0) & _other(split, self.like.shape[1])

    def gives_way(self, split: _Integers) -> _Bools:
        """Tell which images have a copy or a likeness in a later split.

        Training gives way to validation, and that to the test: what measures a model is worth more.
        """
        count = self.like.shape[1]
        later: _Bools = np.arange(count) > split[:, None]
        shared: _Bools = np.any((self.copies | (self.like > 0)) & later, axis=1)
        return shared


def compare(hashes: _Integers, files: _Integers, split: _Integers, bits: int) -> Likeness:
    """Compare images by their perceptual hashes.

    Args:
        hashes: (n,) of `yolo_core.data.phash`.
        files: (n,) a number per content: equal for copies of a file.
        split: (n,) which split each is in, from 0.
        bits: hashes that differ in at most so many are of images that look alike.
    """
    count = int(split.max(initial=0)) + 1
    distinct, place = np.unique(hashes, return_inverse=True)
    known = np.unique(np.stack((place, split, files), axis=1).reshape(-1, 3), axis=0)
    numbers = np.zeros((len(distinct), count), np.int64)  # different files of a hash in a split
    np.add.at(numbers, (known[:, 0], known[:, 1]), 1)
    like = numbers.copy()
    pairs = near_pairs(distinct, bits)
    np.add.at(like, pairs[:, 0], numbers[pairs[:, 1]])
    np.add.at(like, pairs[:, 1], numbers[pairs[:, 0]])
    copies = np.zeros((int(files.max(initial=0)) + 1, count), np.bool_)
    copies[files, split] = True
    return Likeness(
        like=like[place] - copies[files],
        copies=copies[files],
        leader=near_duplicates(hashes, bits),
    )


def _other(split: _Integers, count: int) -> _Bools:
    different: _Bools = np.arange(count) != split[:, None]
    return different
