"""Canvases: one image on grey, or four round a random centre; drawn only where they are seen, if at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from yolo_core.data.geometry import Window
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Labels, Matrix, Part, joined
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

    def seen(self, window: Window) -> list[tuple[Tile, Window]]:
        """Return the tiles seen in a window, each with the canvas pixels of it that are seen."""
        edges = Window(left=0, top=0, right=self.width, bottom=self.height)
        visible = window.overlap(edges)
        parts = [(tile, visible.overlap(tile.place)) for tile in self.tiles]
        return [(tile, part) for tile, part in parts if not part.is_empty]

    def labels(self, source: ImageSource) -> Labels:
        """Return the boxes of all tiles in canvas pixels, cut at the canvas' edges."""
        parts = [
            source.labels(tile.index).moved(offset=(tile.place.left, tile.place.top)) for tile in self.tiles
        ]
        return joined(parts).clipped(self.width, self.height)

    def part(self, source: ImageSource, tile: Tile, matrix: Matrix, scale: float) -> Part:
        """Return the labels of a tile, to be cut at the canvas' edges and moved by ``matrix``."""
        left, top = tile.place.left, tile.place.top
        return Part(
            labels=source.labels(tile.index),
            matrix=matrix,
            scale=scale,
            low=(-left, -top),
            high=(self.width - left, self.height - top),
        )

    def pixels(self, source: ImageSource, window: Window, scratch: Scratch, name: str = "canvas") -> Pixels:
        """Return the pixels of a window, in scratch memory ``name``; tiles outside it are not even read."""
        image = scratch.picture(name, window.height, window.width)
        image.fill(GREY)
        for tile, seen in self.seen(window):
            part_of(image, window, seen)[:] = part_of(source.pixels(tile.index), tile.place, seen)
        return image


def part_of(image: Pixels, where: Window, part: Window) -> Pixels:
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
