"""Pictures that are overwritten again and again, so that no memory is asked for per image.

Fresh memory of a megabyte costs as much as the arithmetic on it: the system hands it out page by
page, zeroed. Each thread keeps its own pictures.
"""

from __future__ import annotations

import threading

import numpy as np

from yolo_core.data.images import Pixels


class Scratch(threading.local):
    """Named pictures of the current thread; asking for a name again gives up what it held."""

    def __init__(self) -> None:
        """Start without memory; runs once in each thread."""
        self._arenas: dict[str, Pixels] = {}

    def picture(self, name: str, height: int, width: int) -> Pixels:
        """Return an (height, width, 3) uint8 array with arbitrary content."""
        needed = height * width * 3
        arena = self._arenas.get(name)
        if arena is None or len(arena) < needed:
            arena = self._arenas[name] = np.empty(needed, np.uint8)
        return arena[:needed].reshape(height, width, 3)
