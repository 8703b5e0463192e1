"""The `study` and `compare` sections of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("fp32", "bf16", "fp16")
METRICS = ("map", "map50", "coco_ap", "coco_ap50")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """How a trained variant is measured.

    Attributes:
        split: of the dataset.
        image_sizes: longest sides in pixels; each is rounded up to a multiple of the largest stride.
        batch_size: images per forward pass.
        confidence: least score of a detection; low, as AP needs the whole curve.
        iou: of NMS.
        precision: fp32, bf16 or fp16 (GPU).
    """

    split: str
    image_sizes: tuple[int, ...]
    batch_size: int
    confidence: float
    iou: float
    precision: str

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        if not self.image_sizes or min(self.image_sizes) < 1:
            raise ValueError(f"image_sizes must list sides in pixels, got {list(self.image_sizes)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}")
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """How the comparison is drawn; ``metric`` is the vertical axis of the plot."""

    metric: str

    def __post_init__(self) -> None:
        """Refuse metrics that a study does not have."""
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}; choose one of {', '.join(METRICS)}")
