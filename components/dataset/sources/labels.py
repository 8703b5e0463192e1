"""YOLO's text files: boxes or polygons, a line each, as fractions of the image's sides."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.dataset.pictures import Size
from components.dataset.sources.source import Faults
from yolo_core.data.coco import SourceBox

# A centre or a size above this was written in pixels; one slightly above 1 is for the validation to judge.
_MAX_FRACTION = 2.0
_BOX_VALUES = 5
_POLYGON_VALUES = 7  # a class and three points
# How far a segment's edges may be from a box's for it to be that object's: a share of its longer side.
_SPAN_TOLERANCE = 0.02
_SPAN_PIXELS = 2.0

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    label: float
    values: tuple[float, ...]


def read_boxes(files: tuple[Path, Path], size: Size, classes: int, faults: Faults) -> list[SourceBox]:
    """Return the boxes of an image, in pixels, with polygons where there are any.

    Args:
        files: its label file and its segments file; either may not exist.
        size: (width, height) of the image.
        classes: how many classes there are.
        faults: hears of lines that are wrong.
    """
    labels, segments = files
    boxes = []
    for line in _read_lines(labels, faults):
        problem = _problem(line, classes)
        if problem is not None:
            faults.add(faults.at(labels, line.number), problem)
            continue
        boxes.append(_box(line, size) if len(line.values) == _BOX_VALUES - 1 else _outlined(line, size))
    outlines = []
    for line in _read_lines(segments, faults):
        if len(line.values) < _POLYGON_VALUES - 1 or len(line.values) % 2 or not _finite(line):
            faults.add(faults.at(segments, line.number), "is not a class and at least 3 finite points")
        else:
            outlines.append(_points(line, size))
    return _with_outlines(boxes, outlines)


def _read_lines(path: Path, faults: Faults) -> list[_Line]:
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        faults.add(path, "is not readable text")
        return []
    lines = []
    for number, content in enumerate(text.splitlines(), 1):
        try:
            numbers = [float(word) for word in content.split()]
        except ValueError:
            faults.add(faults.at(path, number), f"{content.strip()[:60]!r} is not a line of numbers")
            continue
        if numbers:
            lines.append(_Line(number=number, label=numbers[0], values=tuple(numbers[1:])))
    return lines


def _problem(line: _Line, classes: int) -> str | None:
    """Say what is wrong with a label line, or None."""
    count = len(line.values) + 1
    if count != _BOX_VALUES and (count < _POLYGON_VALUES or count % 2 == 0):
        return f"has {count} values; a line is class x y w h, or a class and at least 3 points"
    if not _finite(line):
        return "has a value that is not finite"
    if line.label != int(line.label) or not 0 <= line.label < classes:
        return f"class {line.label:g} is outside 0..{classes - 1}"
    if max(map(abs, line.values)) > _MAX_FRACTION:
        return f"{max(line.values, key=abs):g} is not a fraction of the image's side"
    if count == _BOX_VALUES and min(line.values[2:]) < 0:
        return f"negative size {line.values[2]:g} x {line.values[3]:g}"
    return None


def _finite(line: _Line) -> bool:
    return all(math.isfinite(value) for value in (line.label, *line.values))


def _box(line: _Line, size: Size) -> SourceBox:
    x, y, width, height = line.values
    scaled = ((x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1])
    return SourceBox(class_index=int(line.label), box=scaled)


def _points(line: _Line, size: Size) -> Points:
    return np.array(line.values, np.float64).reshape(-1, 2) * size


def _outlined(line: _Line, size: Size) -> SourceBox:
    points = _points(line, size)
    x0, y0, x1, y1 = _edges(points)
    box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
    return SourceBox(
        class_index=int(line.label), box=box, area=_area(points), segmentation=[points.ravel().tolist()]
    )


def _with_outlines(boxes: list[SourceBox], outlines: list[Points]) -> list[SourceBox]:
    """Give each box the outline that spans it.

    Segment files may have another order, other class numbers and other objects than the labels (those
    of COCO128 do), so what counts is where an outline is. Each serves one box, the closest pairs first.
    """
    if not boxes or not outlines:
        return boxes
    corners = np.array([box.box for box in boxes], np.float64)
    corners[:, 2:] += corners[:, :2]
    spans = np.array([_edges(points) for points in outlines])
    distance = np.abs(corners[:, None] - spans[None]).max(2)  # (boxes, outlines)
    sides = (corners[:, 2:] - corners[:, :2]).max(1)
    distance[distance > np.maximum(_SPAN_PIXELS, _SPAN_TOLERANCE * sides)[:, None]] = np.inf
    matched = list(boxes)
    while np.isfinite(nearest := distance.min()):
        box, outline = (int(index[0]) for index in np.nonzero(distance == nearest))
        points = outlines[outline]
        matched[box] = replace(
            boxes[box], area=_area(points), segmentation=[np.round(points, 3).ravel().tolist()]
        )
        distance[box, :] = np.inf
        distance[:, outline] = np.inf
    return matched


def _edges(points: Points) -> Points:
    """Return x0, y0, x1, y1 around the points."""
    edges: Points = np.concatenate([points.min(0), points.max(0)])
    return edges


def _area(points: Points) -> float:
    """Return the area that a polygon encloses (shoelace formula)."""
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
