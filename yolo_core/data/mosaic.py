"""Canvases: one image on grey, or four round a random centre; drawn only where they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from yolo_core.data.geometry import Window
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Labels, joined
from yolo_core.data.letterbox import GREY
from yolo_core.data.scratch import Scratch


class ImageSource(Protocol):
    """The images of a split at training size, by index."""

    def __len__(self) -> int:
        """Return the number of images."""

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of an image, without reading it."""

    def pixels(self, index: int) -> Pixels:
        """Return (height, width, 3) BGR uint8; the caller does not change it."""

    def labels(self, index: int) -> Labels:
        """Return the boxes in pixels of that size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One image on a canvas: which, and the canvas pixels that it takes."""

    index: int
    place: Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """Where images lie on a grey canvas of width x height; tiles may reach beyond its edges."""

    width: int
    height: int
    tiles: tuple[Tile, ...]

    def labels(self, source: ImageSource, window: Window) -> Labels:
        """Return the boxes of the tiles seen in a window, in canvas pixels, cut at the canvas' edges."""
        parts = [
            source.labels(tile.index).moved(offset=(tile.place.left, tile.place.top))
            for tile in self.tiles
            if not self._seen(tile, window).is_empty
        ]
        return joined(parts).clipped(self.width, self.height)

    def pixels(self, source: ImageSource, window: Window, scratch: Scratch) -> Pixels:
        """Return the pixels of a window, in scratch memory; tiles outside it are not even read."""
        image = _grey(window, scratch)
        for tile in self.tiles:
            seen = self._seen(tile, window)
            if not seen.is_empty:
                _part(image, window, seen)[:] = _part(source.pixels(tile.index), tile.place, seen)
        return image

    def _seen(self, tile: Tile, window: Window) -> Window:
        """Return the part of a window that shows a tile."""
        canvas = Window(left=0, top=0, right=self.width, bottom=self.height)
        return window.overlap(tile.place).overlap(canvas)


def cut(image: Pixels, window: Window, scratch: Scratch) -> Pixels:
    """Return a window of an image; what reaches beyond it is grey."""
    whole = Window(left=0, top=0, right=image.shape[1], bottom=image.shape[0])
    seen = window.overlap(whole)
    if seen == window:
        return _part(image, whole, seen)
    result = _grey(window, scratch, "cut")
    if not seen.is_empty:
        _part(result, window, seen)[:] = _part(image, whole, seen)
    return result


def _grey(window: Window, scratch: Scratch, name: str = "canvas") -> Pixels:
    image = scratch.picture(name, window.bottom - window.top, window.right - window.left)
    image.fill(GREY)
    return image


def _part(image: Pixels, where: Window, part: Window) -> Pixels:
    """Return a view of the part of an image that lies at ``where``."""
    rows = slice(part.top - where.top, part.bottom - where.top)
    return image[rows, part.left - where.left : part.right - where.left]


def single(index: int, source: ImageSource, size: int) -> Canvas:
    """Place one image in the middle of a size x size canvas."""
    width, height = source.size(index)
    tile = _tile(index, source, (size - width) // 2, (size - height) // 2)
    return Canvas(width=size, height=size, tiles=(tile,))


def mosaic(indices: Sequence[int], source: ImageSource, size: int, rng: np.random.Generator) -> Canvas:
    """Place four images round a centre drawn uniformly in [size/2, 3 size/2] of a 2 size canvas.

    The images touch the centre with one corner each: the first with its bottom right, then
    bottom left, top right, top left. What reaches beyond the canvas is cut off.
    """
    centre_x, centre_y = (int(value) for value in rng.integers(size // 2, 3 * size // 2 + 1, 2))
    tiles = []
    for place, index in enumerate(indices):
        width, height = source.size(index)
        left = centre_x - width if place % 2 == 0 else centre_x
        top = centre_y - height if place < 2 else centre_y
        tiles.append(_tile(index, source, left, top))
    return Canvas(width=2 * size, height=2 * size, tiles=tuple(tiles))


def _tile(index: int, source: ImageSource, left: int, top: int) -> Tile:
    width, height = source.size(index)
    return Tile(index=index, place=Window(left=left, top=top, right=left + width, bottom=top + height))
