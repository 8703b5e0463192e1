"""Sheets of pictures with what was found in them beside what is there: a few of the split, and the worst."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from components.sheet import PAPER, Colour, fit, sheet, write
from components.study.val.findings import Findings
from yolo_core.data.coco import Sample
from yolo_core.data.images import Pixels
from yolo_core.data.preview import class_colour
from yolo_core.engine.evaluate import Evaluation, Rows
from yolo_core.metrics.coco_matching import NOTHING
from yolo_core.metrics.error_breakdown import KINDS, Kind

_SIDE, _PAIR_SIDE = 400, 480  # pixels, of the square that a picture is fitted into
_GAP, _CAPTION = 4, 24
_SAMPLES, _WORST = 12, 12
_CONFIDENCE = 0.25
_QUALITY = 90  # of JPEG
_WHITE, _GREEN, _RED, _INK = (255, 255, 255), (90, 200, 90), (60, 60, 255), (30, 30, 30)  # BGR
_SHORT: dict[Kind, str] = {
    "localisation": "loc",
    "class": "cls",
    "both": "both",
    "duplicate": "dup",
    "background": "bkg",
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_samples(evaluation: Evaluation, path: Path) -> None:
    """Draw up to twelve pictures, spread over the split: truth in white, detections above 0.25 in colour."""
    samples = evaluation.dataset.samples(evaluation.split)
    samples = [sample for sample in samples if sample.image_id in evaluation.rows]
    chosen = np.linspace(0, len(samples) - 1, min(_SAMPLES, len(samples))).round().astype(int)
    names = evaluation.dataset.names
    tiles = [_sample(samples[index], evaluation.rows[samples[index].image_id], names) for index in chosen]
    _save(path, sheet(tiles, columns=4))


def draw_worst(findings: Findings, path: Path) -> list[dict[str, object]]:
    """Draw up to twelve of the worst images, each twice: truth on the left, detections on the right.

    What is missed is red on the left, what is wrong on the right, with its kind; the rest is green, a crowd
    white.
    Returns what `worst` says of all images; without an error nothing is drawn.
    """
    rows = worst(findings)
    by_id = {sample.image_id: place for place, sample in enumerate(findings.samples)}
    kinds, shown = _kinds_by_image(findings), rows[:_WORST]
    pairs = [_pair(findings, by_id[int(str(row["image_id"]))], kinds) for row in shown]
    if pairs:
        height = max(picture.shape[0] for picture, _ in pairs)
        tiles = [_pair_tile(pair, height, _caption(row)) for pair, row in zip(pairs, shown, strict=True)]
        _save(path, sheet(tiles, columns=2))
    return rows


def worst(findings: Findings) -> list[dict[str, object]]:
    """Return a row for every image with an error from the best confidence on, the worst first.

    An image weighs as much as it has missed truths, and the scores of its wrong detections.
    """
    kinds = _kinds_by_image(findings)
    rows = []
    for place, sample in enumerate(findings.samples):
        wrong = kinds[place] != NOTHING
        lost, score = len(findings.errors_used.missed[place]), float(findings.used(sample)[wrong, 4].sum())
        if lost or wrong.any():
            rows.append(
                {
                    "image_id": sample.image_id,
                    "file": sample.path.name,
                    "missed": lost,
                    "wrong": int(wrong.sum()),
                    "weight": round(lost + score, 6),
                }
            )
    return sorted(rows, key=lambda row: -row["weight"])  # type: ignore[operator]


def _kinds_by_image(findings: Findings) -> list[NDArray[np.int64]]:
    """Per image (n,) the kind of each used detection as an index into `KINDS`; `NOTHING`: no error."""
    counts = [len(findings.used(sample)) for sample in findings.samples]
    kinds = np.full(sum(counts), NOTHING, np.int64)
    kinds[findings.errors_used.rows] = findings.errors_used.row_kinds
    return np.split(kinds, np.cumsum(counts)[:-1])


def _pair(findings: Findings, place: int, kinds: list[NDArray[np.int64]]) -> tuple[Pixels, Pixels]:
    """Draw one image twice: with its truth, and with what was found."""
    sample, names = findings.samples[place], findings.evaluation.dataset.names
    left, scale = fit(sample.read_image(), _PAIR_SIDE)
    right = left.copy()
    missed = set(findings.errors_used.missed[place].tolist())
    # Only what is wrong is written on: the names of the rest would hide it.
    for index in sorted(range(len(sample.boxes)), key=missed.__contains__):
        name = names[int(sample.classes[index])] if index in missed else ""
        colour = _WHITE if sample.crowd[index] else _RED if index in missed else _GREEN
        _draw(left, sample.boxes[index] * scale, colour, name)
    found = [*zip(findings.used(sample), kinds[place].tolist(), strict=True)]
    for row, kind in sorted(found, key=lambda pair: (pair[1] != NOTHING, pair[0][4])):
        wrong = kind != NOTHING
        label = f"{names[int(row[5])]} {row[4]:.2f} {_SHORT[KINDS[kind]]}" if wrong else ""
        _draw(right, row[:4] * scale, _RED if wrong else _GREEN, label)
    return left, right


def _pair_tile(pair: tuple[Pixels, Pixels], height: int, caption: str) -> Pixels:
    """Lay two pictures beside each other under a caption."""
    tile: Pixels = np.full((height + _CAPTION, 2 * _PAIR_SIDE + _GAP, 3), PAPER, np.uint8)
    for picture, start in zip(pair, (0, _PAIR_SIDE + _GAP), strict=True):
        tile[_CAPTION : _CAPTION + picture.shape[0], start : start + picture.shape[1]] = picture
    cv2.putText(tile, caption, (6, _CAPTION - 7), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    return tile


def _caption(row: dict[str, object]) -> str:
    return f"{str(row['file'])[-40:]}: {row['missed']} missed, {row['wrong']} wrong"


def _sample(sample: Sample, rows: Rows, names: tuple[str, ...]) -> Pixels:
    """Draw one picture with truth and detections: (400, 400, 3) BGR."""
    picture, scale = fit(sample.read_image(), _SIDE)
    for box in sample.boxes:
        _draw(picture, box * scale, _WHITE, "")
    for row in rows[rows[:, 4] > _CONFIDENCE][::-1]:  # the best last, over the others
        category = int(row[5])
        _draw(picture, row[:4] * scale, class_colour(category), f"{names[category]} {row[4]:.2f}")
    tile: Pixels = np.full((_SIDE, _SIDE, 3), PAPER, np.uint8)
    tile[: picture.shape[0], : picture.shape[1]] = picture
    return tile


def _draw(picture: Pixels, box: NDArray[np.floating], colour: Colour, label: str) -> None:
    """Draw a box of xyxy in pixels, and its label if it has one."""
    # Far beyond the picture OpenCV's integers would overflow.
    left, top, right, bottom = (round(float(min(max(value, -4096), 4096))) for value in box)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, 1)
    if label:
        write(picture, label, (left, top), colour)


def _save(path: Path, picture: Pixels) -> None:
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
