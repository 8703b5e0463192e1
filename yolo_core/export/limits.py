"""What an export may differ by, and how much evidence a verdict needs; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How near two detections of a class must be to count as the same: IoU at least, scores at most apart."""

    iou: float = 0.99
    score: float = 0.005


EXACT = Tolerance()  # what float32 on another runtime keeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How far a model differs from the reference on the same images.

    Attributes:
        images: compared.
        max_box_error, mean_box_error: of x, y, w, h over all N outputs, in input pixels; infinite where the
            outputs have other shapes or hold values that are not finite; None where an export has no raw
            outputs, because it suppresses by itself.
        max_score_error, mean_score_error: of objectness and class scores, likewise.
        detections: that the reference finds (confidence .25, IoU .45); see `parity.detections_of`.
        matched: share of both sides' detections that have a counterpart within the tolerance; 1 when neither
            finds anything. A counterpart may lie below the confidence by as much as scores may differ, for
            else what lies just above it would be lost by rounding.
    """

    images: int
    max_box_error: float | None
    mean_box_error: float | None
    max_score_error: float | None
    mean_score_error: float | None
    detections: int
    matched: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a format may differ by; null leaves a figure unjudged.

    Attributes:
        max_box_error: of any raw box coordinate, in pixels.
        max_score_error: of any raw score, in 0..1.
        min_matched: share of detections with a counterpart, in 0..1.
        same_iou, same_score: what makes a counterpart: at least this IoU, scores at most this far apart.
        max_ap_loss, max_ap50_loss: of AP over IoU .5 to .95, and at .5; fractions of 1.
    """

    max_box_error: float | None = None
    max_score_error: float | None = None
    min_matched: float
    same_iou: float = EXACT.iou
    same_score: float = EXACT.score
    max_ap_loss: float | None = None
    max_ap50_loss: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("max_box_error", "max_score_error", "max_ap_loss", "max_ap50_loss"):
            value = getattr(self, name)
            if value is not None and not value >= 0:  # not a number fails too
                raise ValueError(f"{name} must be 0 or more, got {value}")
        for name in ("min_matched", "same_iou", "same_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")

    @property
    def tolerance(self) -> Tolerance:
        """Of a counterpart."""
        return Tolerance(iou=self.same_iou, score=self.same_score)

    def judge(self, parity: Parity) -> list[str]:
        """Return what is wrong with a parity, in words with figures; nothing when it passes."""
        found, least = parity.matched, self.min_matched
        reasons = []
        for what, unit, error, limit in (
            ("box", " px", parity.max_box_error, self.max_box_error),
            ("score", "", parity.max_score_error, self.max_score_error),
        ):
            if error is not None and limit is not None and not error <= limit:
                reasons.append(f"a {what} is {error:.4g}{unit} off (limit {limit:g})")
        if not found >= least:
            reasons.append(f"only {found:.2%} of detections match (limit {least:.2%})")
        return reasons


@dataclass(frozen=True, kw_only=True, slots=True)
class Enough:
    """How much a verdict needs at least: images compared, detections of PyTorch in them, and true objects."""

    images: int
    detections: int
    objects: int

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("images", "detections", "objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
