"""The `dataset` section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

BUILTIN = "builtin"
FORMATS = ("auto", "coco", "yolo", "voc")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltinConfig:
    """How many images of the built-in dataset are drawn for each split."""

    train_images: int
    val_images: int
    test_images: int

    def __post_init__(self) -> None:
        """Every split needs an image at least."""
        for name in ("train_images", "val_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"builtin.{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Where the data come from and how splits that are not given are made.

    Attributes:
        source: ``builtin``, or the path of a folder in COCO, YOLO or Pascal VOC layout.
        format: ``auto`` recognises the layout of that folder; or coco, yolo, voc.
        seed: of the built-in drawing and of splits made here.
        val_fraction, test_fraction: share of the images, 0..1, that a split made here takes; used
            only where the source does not give the split.
        builtin: sizes of the built-in dataset.
    """

    source: str
    format: str
    seed: int
    val_fraction: float
    test_fraction: float
    builtin: BuiltinConfig

    def __post_init__(self) -> None:
        """Check values that a type cannot."""
        if not self.source.strip():
            raise ValueError("source is empty; give 'builtin' or the path of a dataset folder")
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; choose one of {', '.join(FORMATS)}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on; lower them")
