"""Pairs of rows that share a key, without comparing each row with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_CHUNK = 1 << 22  # pairs that are made at a time: some 150 MB


def equal_pairs(keys: NDArray[Any], chunk: int = _CHUNK) -> Iterator[tuple[Indices, Indices]]:
    """Yield the pairs of rows whose keys are equal, each pair once, in arrays of about ``chunk``.

    Args:
        keys: (n,) of any type that sorts.
        chunk: pairs per array; one row's pairs are not parted.

    Yields:
        Two (k,) arrays of row numbers.
    """
    order = np.argsort(keys, kind="stable")
    _, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
    # In the sorted order each row meets those behind it in its run of equal keys.
    behind = np.repeat(starts + sizes, sizes) - np.arange(len(keys)) - 1
    ends = np.cumsum(behind)
    start = 0
    while start < len(keys):
        done = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, done + chunk, side="right")), start + 1)
        counts = behind[start:stop]
        left = np.repeat(np.arange(start, stop), counts)
        if len(left):
            steps = np.arange(len(left)) - np.repeat(ends[start:stop] - counts - done, counts)
            yield order[left], order[left + 1 + steps]
        start = stop
