"""The `export` section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = ("torchscript", "onnx", "openvino")
SPLITS = ("auto", "test", "val", "train")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What is exported and how equal it must be to PyTorch in float32.

    Attributes:
        formats: any of torchscript, onnx, openvino.
        image_size: height and width in pixels, rounded up to a multiple of the largest stride; null takes
            the training size.
        batch_size: images per call.
        opset: of ONNX; the file has it or the stage fails.
        licence: of the weights, written into the files; null says that none was stated.
        parity_split: split whose images are compared first; auto, and where a split is absent or too small,
            takes test, then val, then train.
        parity_images: how many are compared, evenly spread over a split.
        max_box_error: of any raw box coordinate, in pixels.
        max_score_error: of any raw score, in 0..1.
        min_matched: share of detections after NMS with a counterpart, in 0..1.
        latency_runs: calls whose median is the latency.
    """

    formats: tuple[str, ...]
    image_size: int | None
    batch_size: int
    opset: int
    licence: str | None
    parity_split: str
    parity_images: int
    max_box_error: float
    max_score_error: float
    min_matched: float
    latency_runs: int

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats or len(set(self.formats)) < len(self.formats):
            raise ValueError(
                f"formats: choose from {', '.join(FORMATS)}, each once, got {list(self.formats)}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size must be 1 or more, got {self.image_size}")
        for name in ("batch_size", "opset", "parity_images", "latency_runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.parity_split not in SPLITS:
            raise ValueError(f"parity_split is {self.parity_split!r}; choose one of {', '.join(SPLITS)}")
        for name in ("max_box_error", "max_score_error"):
            if not getattr(self, name) >= 0:  # not a number fails too
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.min_matched <= 1:
            raise ValueError(f"min_matched must lie in 0..1, got {self.min_matched}")
