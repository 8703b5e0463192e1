"""From a canvas and a motion to the picture that the network sees, and what becomes of its labels.

An aligned motion needs no canvas: what is seen of each image is resized straight from the source into
its place. Other motions draw the part of the canvas that is seen, and warp it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from yolo_core.data.geometry import Motion, Window, seen_window, translation, warp
from yolo_core.data.images import Pixels
from yolo_core.data.labels import Part
from yolo_core.data.letterbox import GREY
from yolo_core.data.mosaic import Canvas, ImageSource, part_of
from yolo_core.data.scratch import Scratch

_OVERHANG = 2  # pixels by which the last canvas pixel may reach beyond the picture; scales are under 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture before it is drawn: images on a canvas, and how the canvas moves."""

    canvas: Canvas
    source: ImageSource
    motion: Motion


def render(scene: Scene, scratch: Scratch, name: str = "picture") -> tuple[Pixels, list[Part]]:
    """Draw a scene in scratch memory ``name``.

    Returns:
        (size, size, 3) BGR pixels, whose rows may lie further apart; and the labels of the images seen.
    """
    return (_warped if scene.motion.origin is None else _resized)(scene, scratch, name)


def _warped(scene: Scene, scratch: Scratch, name: str) -> tuple[Pixels, list[Part]]:
    canvas, motion = scene.canvas, scene.motion
    window = seen_window(motion, (canvas.width, canvas.height))
    picture = scratch.picture(name, motion.size, motion.size)
    warp(canvas.pixels(scene.source, window, scratch), window, motion, picture)
    matrix = motion.flips() @ motion.matrix
    return picture, [
        canvas.part(scene.source, tile, matrix @ translation(tile.place.left, tile.place.top), motion.scale)
        for tile, _ in canvas.seen(window)
    ]


def _resized(scene: Scene, scratch: Scratch, name: str) -> tuple[Pixels, list[Part]]:
    canvas, motion = scene.canvas, scene.motion
    side = motion.size + _OVERHANG
    picture, whole = scratch.picture(name, side, side), Window(left=0, top=0, right=side, bottom=side)
    picture.fill(GREY)
    parts, flips = [], motion.flips()
    for tile, seen in canvas.seen(seen_window(motion, (canvas.width, canvas.height))):
        place = motion.place(seen)
        if place.is_empty:  # under half a pixel of it is seen
            continue
        pixels = part_of(scene.source.pixels(tile.index), tile.place, seen)
        target = part_of(picture, whole, place)
        cv2.resize(pixels, (place.width, place.height), dst=target, interpolation=cv2.INTER_LINEAR)
        # Edges fall on whole pixels, so each image's own scale differs from the motion's in its last digits.
        scale_x, scale_y = place.width / seen.width, place.height / seen.height
        matrix = np.diag((scale_x, scale_y, 1.0))
        matrix[0, 2] = place.left - (seen.left - tile.place.left) * scale_x
        matrix[1, 2] = place.top - (seen.top - tile.place.top) * scale_y
        parts.append(canvas.part(scene.source, tile, flips @ matrix, motion.scale))
    picture = picture[: motion.size, : motion.size]
    if motion.flip_x or motion.flip_y:
        flipped = scratch.picture(f"flipped {name}", motion.size, motion.size)
        cv2.flip(picture, -1 if motion.flip_x and motion.flip_y else int(motion.flip_x), dst=flipped)
        picture = flipped
    return picture, parts
