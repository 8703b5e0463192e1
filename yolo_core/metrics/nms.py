"""Non-maximum suppression over the model's decoded output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from yolo_core.metrics.boxes import xywh_to_xyxy

# Boxes of class k are shifted by k times this many pixels, so that classes do not suppress each other.
# Larger than any image side.
CLASS_OFFSET = 4096.0

# Candidates of the first pass; see `_suppress`.
_FIRST_PASS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class NmsSettings:
    """What to keep.

    Attributes:
        confidence: candidates need an objectness and a score (objectness x class) above this.
        iou: of two boxes of one class that overlap more than this, the weaker goes.
        multi_label: every class above the confidence makes a candidate, not only a box's best.
        agnostic: boxes suppress each other across classes.
        max_detections: at most this many results per image.
        max_candidates: at most this many candidates per image, the best by score.
    """

    confidence: float = 0.25
    iou: float = 0.45
    multi_label: bool = False
    agnostic: bool = False
    max_detections: int = 300
    max_candidates: int = 30_000

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"nms {name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("max_detections", "max_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"nms {name} must be 1 or more, got {getattr(self, name)}")


@torch.no_grad()
def non_max_suppression(predictions: Tensor, settings: NmsSettings) -> list[Tensor]:
    """Suppress weak and doubled boxes, image by image.

    Args:
        predictions: (B, N, 5 + nc): centre x, y, w, h in pixels, objectness, class scores in 0..1.
        settings: thresholds and limits.

    Returns:
        One float tensor (n, 6) per image: x1, y1, x2, y2 in pixels, score, class index; best first.
    """
    if predictions.dtype in (torch.float16, torch.bfloat16):
        predictions = predictions.float()  # class offsets need the mantissa
    return suppress(predictions, settings)


@torch.no_grad()
def suppress(images: Iterable[Tensor], settings: NmsSettings) -> list[Tensor]:
    """Do as `non_max_suppression` with float32 rows (n, 5 + nc) per image, of which n may differ."""
    return [
        _suppress(_candidates(rows[rows[:, 4] > settings.confidence], settings), settings) for rows in images
    ]


def _candidates(rows: Tensor, settings: NmsSettings) -> Tensor:
    """(n, 5 + nc) decoded rows of one image -> (m, 6) xyxy, score, class, best score first."""
    scores = rows[:, 5:] * rows[:, 4:5]
    if settings.multi_label:
        row, category = (scores > settings.confidence).nonzero(as_tuple=True)
        score = scores[row, category]
    else:
        score, category = scores.max(1)
        row = (score > settings.confidence).nonzero()[:, 0]
        score, category = score[row], category[row]
    order = score.argsort(descending=True, stable=True)[: settings.max_candidates]
    boxes = xywh_to_xyxy(rows[row[order], :4])
    return torch.cat((boxes, score[order, None], category[order, None].to(boxes.dtype)), 1)


def _suppress(candidates: Tensor, settings: NmsSettings) -> Tensor:
    """Greedy suppression of sorted (m, 6) candidates, in passes.

    Whether a candidate survives depends only on better ones, so the survivors among the first k are
    final. Only ``max_detections`` are wanted: a first pass over few candidates is usually enough, where
    a single pass over an untrained model's 30,000 takes seconds.
    """
    shift = 0.0 if settings.agnostic else CLASS_OFFSET
    boxes = candidates[:, :4] + candidates[:, 5:6] * shift
    reach = max(_FIRST_PASS, settings.max_detections)
    while True:
        kept = nms(boxes[:reach], candidates[:reach, 4], settings.iou)
        if reach >= len(candidates) or len(kept) >= settings.max_detections:
            return candidates[kept[: settings.max_detections]]
        reach *= 4
