"""The `dataset` section of params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass

FORMATS = ("auto", "coco", "yolo", "voc")
GROUP_AUTO, GROUP_NONE = "auto", "none"


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
        source: ``builtin``, ``coco2017``, the path of a folder or archive in COCO, YOLO or Pascal VOC
            layout, or an address: s3://BUCKET/PREFIX, dvc://REPO@REV/PATH, mlflow://RUN_ID.
        format: ``auto`` recognises the layout; or coco, yolo, voc.
        seed: of the built-in drawing and of splits made here.
        val_fraction, test_fraction: share of the images, 0..1, that a split made here takes; used
            only where the source does not give the split.
        group_by: which file names of a source belong together in a split made here: ``auto`` looks for
            counters (clip7_0001.jpg), ``none`` looks at pictures alone, and a regular expression gives
            the source's name by its first group, or by all that it matches.
        shard_above: a dataset of more images is written as tar shards with an index; see docs/data.md.
        downloads: folder for what an address brings, so that a broken transfer goes on where it stopped.
        coco2017_url: where ``coco2017`` finds zips/ and annotations/; a mirror serves too.
        builtin: sizes of the built-in dataset.
    """

    source: str
    format: str
    seed: int
    val_fraction: float
    test_fraction: float
    group_by: str
    shard_above: int
    downloads: str
    coco2017_url: str
    builtin: BuiltinConfig

    def __post_init__(self) -> None:
        """Check values that a type cannot."""
        if not self.source.strip():
            raise ValueError("source is empty; give 'builtin' or the path of a dataset folder")
        if not self.downloads.strip():
            raise ValueError("downloads is empty; name a folder, such as data/downloads")
        if not self.coco2017_url.startswith(("http://", "https://")):
            raise ValueError(f"coco2017_url must begin with http:// or https://, not {self.coco2017_url!r}")
        self._check_group_by()
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; choose one of {', '.join(FORMATS)}")
        for name in ("seed", "shard_above"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on; lower them")

    def _check_group_by(self) -> None:
        if self.group_by in (GROUP_AUTO, GROUP_NONE):
            return
        try:
            re.compile(self.group_by)
        except re.error as error:
            raise ValueError(f"group_by {self.group_by!r} is no regular expression: {error}") from None
        if not self.group_by:
            raise ValueError("group_by is empty; give auto, none or a regular expression")
