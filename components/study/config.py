"""The sections ``study`` and ``compare`` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("fp32", "bf16", "fp16")
METRICS = ("map", "map50", "coco_ap", "coco_ap50")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How every variant is measured.

    Attributes:
        split: of the dataset: train, val or test.
        image_sizes: longest sides in pixels; each is rounded up to a multiple of the model's stride.
        batch_size: images per forward pass, for quality and for times.
        confidence: detections under this score are left out; 0.001 for a true mAP.
        iou: of two boxes of one class that overlap more than this, the weaker goes.
        precision: fp32, bf16 or fp16.
        augment: look at each image three times (test-time augmentation); quality and times are of that.
        device: cpu, cuda, or auto: cuda where there is a GPU.
        timed_images: images, spread evenly over the split, on which the times are measured.
    """

    split: str
    image_sizes: tuple[int, ...]
    batch_size: int
    confidence: float
    iou: float
    precision: str
    augment: bool
    device: str
    timed_images: int

    def __post_init__(self) -> None:
        """Refuse values out of range; ValueError names the field."""
        if not self.image_sizes or min(self.image_sizes) < 1:
            raise ValueError(f"image_sizes must be pixels, one size at least; got {list(self.image_sizes)}")
        for name in ("batch_size", "timed_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How the variants' studies are shown side by side.

    Attributes:
        metric: the plot's vertical axis and what makes a point the best: map (built-in, .5:.95), map50,
            coco_ap or coco_ap50 (the official COCO evaluation).
        resamples: of the images, by which intervals are found.
        level: share of the resamples within an interval.
        seed: of the resamples.
    """

    metric: str
    resamples: int
    level: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ValueError(
                f"resamples must be 1 or more and level lie in 0..1, got {self.resamples} and {self.level}"
            )
        if self.metric not in METRICS:
            raise ValueError(f"metric is {self.metric!r}; choose one of {', '.join(METRICS)}")
