"""A contact sheet of the worst images: what they show, with the boxes that break rules in red."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from components.sheet import PAPER, TILE, fit, on_paper, sheet, write
from components.validate.report import images_to_see, plain
from components.validate.rules import ANNOTATIONS
from components.validate.suite import Outcome
from components.validate.tables import Tables
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.images import Pixels, decode_image
from yolo_core.errors import DataError

_MOST = 16
_MARGIN = 24  # pixels round a picture, where boxes that leave it can be seen
_CAPTION = 58  # pixels below it
_RED, _BLUE, _INK = (40, 40, 235), (220, 130, 20), (30, 30, 30)  # BGR
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_offenders(dataset: DetectionDataset, tables: Tables, outcomes: list[Outcome]) -> Pixels | None:
    """Draw up to sixteen images that break rules, the worst first; None if no image does."""
    chosen = list(images_to_see(outcomes, tables).items())[:_MOST]
    if not chosen:
        return None
    wrong = {
        row: outcome.rule.name
        for outcome in outcomes
        if outcome.rule.table == ANNOTATIONS
        for row in outcome.rows
    }
    boxes = tables.annotations[tables.annotations["file"].isin({file for file, _ in chosen})]
    by_file: Mapping[Any, Any] = {file: group.to_dict("records") for file, group in boxes.groupby("file")}
    return sheet([_tile(dataset, file, by_file.get(file, []), (wrong, broken)) for file, broken in chosen])


def _tile(
    dataset: DetectionDataset,
    file: str,
    boxes: Sequence[Mapping[str, Any]],
    faults: tuple[Mapping[int, str], Sequence[Outcome]],
) -> Pixels:
    """Draw one image, its boxes, and what it breaks."""
    wrong, broken = faults
    try:
        image, scale = fit(decode_image(dataset.read_bytes(f"images/{file}"), file), TILE - 2 * _MARGIN)
    except DataError:
        image, scale = np.full((TILE // 2, TILE - 2 * _MARGIN, 3), 200, np.uint8), 0.0
        cv2.putText(image, "cannot be read", (70, TILE // 4), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    tile = on_paper(image, TILE + _CAPTION, _MARGIN)
    for box in sorted(boxes, key=lambda box: box["row"] in wrong):
        if scale and box["finite"]:
            _draw_box(tile, box, scale, box["row"] in wrong)
    tile[TILE:] = PAPER
    names = ", ".join(dict.fromkeys(outcome.rule.name for outcome in broken))
    for line, text in enumerate([f"images/{file}"[-48:], *textwrap.wrap(names, 50)[:2]]):
        colour = _INK if line == 0 else _RED
        cv2.putText(tile, text, (6, TILE + 14 + 17 * line), _FONT, 0.38, colour, 1, cv2.LINE_AA)
    return tile


def _draw_box(tile: Pixels, box: Mapping[str, Any], scale: float, is_wrong: bool) -> None:
    edges = (box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"])
    # Far beyond the picture OpenCV's integers would overflow.
    left, top, right, bottom = (round(min(max(_MARGIN + edge * scale, -4096), 4096)) for edge in edges)
    colour = _RED if is_wrong else _BLUE
    cv2.rectangle(tile, (left, top), (right, bottom), colour, 2 if is_wrong else 1)
    if is_wrong:
        write(tile, f"{plain(box['annotation_id'])}", (left, top), colour)
