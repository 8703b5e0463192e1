"""Perceptual hashes: pictures that look alike have hashes that differ in few bits.

The hash is the sign pattern of a picture's lowest 8x8 frequencies (discrete cosine transform of the
32x32 grey picture) against their median, after Zauner, "Implementation and benchmarking of perceptual
image hash functions" (2010), section 3.2.1. It survives other sizes, qualities and brightness; it does
not survive flips, turns and crops.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.runs import equal_pairs

Hashes = NDArray[np.int64]
Pairs = NDArray[np.int64]

_SIDE, _KEPT, _BITS = 32, 8, 64
_AGREEING = 2  # bands that must be equal: more make fewer candidates but more tables


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """Hash a picture.

    Args:
        image: (H, W, 3) BGR or (H, W) grey, uint8.

    Returns:
        64 bits as a signed integer, so that it fits an int64 column. Pictures of a single colour have
        hashes that differ in a bit at most.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 else image
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Rounded, or noise of the arithmetic would decide the bits of an even picture.
    frequencies = np.rint(cv2.dct(small)[:_KEPT, :_KEPT].ravel())
    bits = frequencies > np.median(frequencies[1:])
    return int(np.packbits(bits).view(">i8")[0])


def near_pairs(hashes: Hashes, max_distance: int) -> Pairs:
    """Return the pairs of different hashes that differ in at most ``max_distance`` bits.

    Two hashes that differ in d bits agree in at least two of d + 2 bands of bits (pigeonholes), so
    only hashes that share two bands are compared: 120,000 take seconds.

    Args:
        hashes: (n,) distinct values; take `numpy.unique` first.
        max_distance: bits, 0..16.

    Returns:
        (k, 2) int64 indices into ``hashes``, the smaller first, sorted.

    Raises:
        ValueError: the distance is out of range.
    """
    if not 0 <= max_distance <= 16:
        raise ValueError(f"max_distance must be within 0..16 bits, not {max_distance}")
    values = np.ascontiguousarray(hashes, np.int64).view(np.uint64)
    edges = np.linspace(0, _BITS, max_distance + _AGREEING + 1).round().astype(int)
    bands = [((1 << int(high)) - (1 << int(low))) for low, high in pairwise(edges)]
    found = [np.empty((0, 2), np.int64)]
    for chosen in combinations(bands, _AGREEING):
        for first, second in equal_pairs(values & np.uint64(sum(chosen))):
            near = np.bitwise_count(values[first] ^ values[second]) <= max_distance
            found.append(np.sort(np.stack((first[near], second[near]), axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def near_duplicates(hashes: Hashes, max_distance: int) -> Pairs:
    """Group pictures whose hashes are equal, or near one another directly or through others.

    Args:
        hashes: (n,) of `perceptual_hash`.
        max_distance: bits, 0..16, of neighbours in a group.

    Returns:
        (n,) for each picture the smallest index of its group: itself where nothing resembles it.
    """
    distinct, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    parent = np.arange(len(distinct))
    for left, right in near_pairs(distinct, max_distance).tolist():
        low, high = _root(parent, left), _root(parent, right)
        if first[low] > first[high]:
            low, high = high, low
        parent[high] = low
    roots = np.array([_root(parent, index) for index in range(len(distinct))], np.int64)
    groups: Pairs = first[roots][place].astype(np.int64)
    return groups


def _root(parent: NDArray[np.int64], index: int) -> int:
    """Follow the parents to the root, shortening the way for the next."""
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index
