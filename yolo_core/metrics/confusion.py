"""Which classes are taken for which, and what is missed or invented."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yolo_core.metrics.average_precision import Floats, box_iou


@dataclass(kw_only=True, eq=False)
class ConfusionMatrix:
    """Counts of predicted against true classes.

    ``matrix`` is (nc + 1, nc + 1): rows are predicted classes, columns true ones, and the last of each is
    the background. A detection without a truth counts in the last column, a missed truth in the last row.
    Detections under ``confidence`` are left out; pairs need an IoU of ``iou``, whatever their classes.
    """

    num_classes: int
    confidence: float = 0.25
    iou: float = 0.45
    matrix: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with zeros."""
        self.matrix = np.zeros((self.num_classes + 1, self.num_classes + 1), np.int64)

    def add(
        self, detections: NDArray[np.floating], boxes: NDArray[np.floating], classes: NDArray[np.int64]
    ) -> None:
        """Count one image: (n, 6) xyxy, score, class; (m, 4) true xyxy; (m,) true class."""
        kept = detections[detections[:, 4] > self.confidence]
        predicted = kept[:, 5].astype(np.int64)
        pairs = pair_up(box_iou(kept, boxes), self.iou)
        rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
        invented, missed = np.delete(predicted, rows), np.delete(classes, columns)
        np.add.at(self.matrix, (predicted[rows], classes[columns]), 1)
        self.matrix[: self.num_classes, -1] += np.bincount(invented, minlength=self.num_classes)
        self.matrix[-1, : self.num_classes] += np.bincount(missed, minlength=self.num_classes)


def pair_up(overlap: Floats, least: float) -> list[tuple[int, int]]:
    """Pair rows with columns greedily by overlap, each at most once, while it is ``least`` or more."""
    rows, columns = np.nonzero(overlap >= least)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    pairs = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row in free_rows and column in free_columns:
            free_rows.remove(row)
            free_columns.remove(column)
            pairs.append((row, column))
    return pairs
