"""The `export` section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = ("torchscript", "onnx", "openvino")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What is exported and how equal it must be to PyTorch in float32.

    Attributes:
        formats: any of torchscript, onnx, openvino.
        image_size: height and width in pixels; null takes the training size.
        batch_size: images per call.
        opset: of ONNX.
        parity_split: split whose images are compared.
        parity_images: how many, evenly spread over it.
        max_box_error: of any raw box coordinate, in pixels.
        max_score_error: of any raw score, in 0..1.
        min_matched: share of detections after NMS with a counterpart, in 0..1.
    """

    formats: tuple[str, ...]
    image_size: int | None
    batch_size: int
    opset: int
    parity_split: str
    parity_images: int
    max_box_error: float
    max_score_error: float
    min_matched: float

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats: choose from {', '.join(FORMATS)}, got {list(self.formats)}")
        for name in ("batch_size", "opset", "parity_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("max_box_error", "max_score_error"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.min_matched <= 1:
            raise ValueError(f"min_matched must lie in 0..1, got {self.min_matched}")
