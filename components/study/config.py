"""The sections ``study`` and ``compare`` of params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass

PRECISIONS = ("fp32", "bf16", "fp16")
METRICS = ("map", "map50", "coco_ap", "coco_ap50")
DEVICES = ("auto", "cpu", "cuda")
# Named lists of sizes: the release's study.
SIZE_PRESETS = {"release": tuple(range(256, 1537, 128))}
LARGEST_SIZE = 4096  # pixels; suppression tells classes apart by shifts of so many
_RANGE = re.compile(r"\s*(\d+)\s*\.\.\s*(\d+)(?:\s+step\s+(\d+))?\s*")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """How every variant is measured.

    Attributes:
        split: of the dataset: train, val or test.
        image_sizes: longest sides in pixels: a list, "256..1536 step 128" (both ends belong to it), or
            "release", which is that; each is rounded up to a multiple of the model's stride.
        batch_size: images per forward pass, for quality and for times.
        confidence: detections under this score are left out; 0.001 for a true mAP.
        iou: of two boxes of one class that overlap more than this, the weaker goes.
        precision: fp32, bf16 or fp16.
        augment: look at each image three times (test-time augmentation); quality and times are of that.
        device: cpu, cuda, or auto: cuda where there is a GPU.
        timed_images: images, spread evenly over the split, on which the times are measured.
        storage: folder (in the workspace, unless absolute) of finished points; another run of the study
            measures only what is not there.
        workers: Ray workers that measure accuracy, one size of one variant each; 1: this process does.
        cpus_per_worker: processors of each; also its threads.
        gpus_per_worker: of each.
        ray_address: of a running Ray, whose machines must see the dataset and the weights under the same
            paths; None starts one on this machine.
    """

    split: str
    image_sizes: tuple[int, ...] | str
    batch_size: int
    confidence: float
    iou: float
    precision: str
    augment: bool
    device: str
    timed_images: int
    storage: str
    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    ray_address: str | None

    def __post_init__(self) -> None:
        """Refuse values out of range; ValueError names the field."""
        self._check_sizes()
        for name in ("batch_size", "timed_images", "workers", "cpus_per_worker"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.gpus_per_worker < 0:
            raise ValueError(f"gpus_per_worker must be 0 or more, got {self.gpus_per_worker}")
        if not self.storage or "://" in self.storage:
            raise ValueError(f"storage must name a folder, got {self.storage!r}")
        if str(self.ray_address).startswith(("http://", "https://")):
            raise ValueError(
                f"ray_address must be HOST:PORT of a head, not the job server {self.ray_address}"
            )
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name, known in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")

    def _check_sizes(self) -> None:
        """Raise a ValueError where a size is none."""
        if not self.sizes:
            raise ValueError("image_sizes is empty; name one size at least")
        for size in self.sizes:
            if not 1 <= size <= LARGEST_SIZE:
                raise ValueError(f"image_sizes must lie in 1..{LARGEST_SIZE} pixels, got {size}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The image sizes as numbers of pixels.

        Raises:
            ValueError: the words for them are none that are known.
        """
        if not isinstance(self.image_sizes, str):
            return self.image_sizes
        if self.image_sizes in SIZE_PRESETS:
            return SIZE_PRESETS[self.image_sizes]
        found = _RANGE.fullmatch(self.image_sizes)
        if found is None:
            raise ValueError(
                f"image_sizes is {self.image_sizes!r}; write a list, '256..1536 step 128', or "
                f"{' or '.join(SIZE_PRESETS)}"
            )
        first, last, step = (int(text) if text else 1 for text in found.groups())
        if step < 1 or last < first or last > LARGEST_SIZE:
            raise ValueError(
                f"image_sizes is {self.image_sizes!r}; it must rise to {LARGEST_SIZE} pixels at most"
            )
        return tuple(range(first, last + 1, step))


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
