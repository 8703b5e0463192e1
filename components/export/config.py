"""The `export` section of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_core.export.limits import Enough, Limits

# Of `yolo_core.export.backends.FORMATS`, whose import takes seconds.
FORMATS = (
    "torchscript",
    "onnx",
    "onnx-nms",
    "onnx-image",
    "onnx-int8",
    "openvino",
    "openvino-fp16",
    "openvino-int8",
    "saved_model",
    "keras",
    "tflite",
    "tflite-fp16",
    "tflite-int8",
    "coreml",
    "tensorrt",
)
SPLITS = ("auto", "val", "test", "train")


@dataclass(frozen=True, kw_only=True, slots=True)
class InsideNms:
    """What formats keep that suppress inside the file: detections above a confidence that overlap little."""

    confidence: float
    iou: float
    max_detections: int

    def __post_init__(self) -> None:
        """Check the ranges; ValueError names the field."""
        for name in ("confidence", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be 1 or more, got {self.max_detections}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionLimits:
    """What a format may differ by, by the precision that it runs in; ``image`` if it takes pictures.

    A letterbox inside the file rounds elsewhere, so such a format differs from the first pixel on.
    """

    fp32: Limits
    image: Limits
    fp16: Limits
    bf16: Limits
    int8: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What is exported, how equal it must be to PyTorch in float32, and what evidence that takes.

    Attributes:
        formats: names of `yolo_core.export.backends.FORMATS`.
        image_size: height and width in pixels, rounded up to a multiple of the largest stride; null takes
            the training size.
        batch_size: images per call.
        dynamic: leave batch, height and width open; formats that cannot refuse.
        opset: of ONNX; the file has it or the stage fails.
        simplify: let onnxslim simplify ONNX graphs.
        nms: of formats that suppress inside the file.
        calibration_images: of the training split, for int8.
        licence: of the weights, written into the files; null says that none was stated.
        split: whose truth the AP is of; auto, or where it is absent, takes val, then test, then train.
        ap_images: how many of it at most, evenly spread; null takes all.
        parity_images: on how many raw outputs and detections are compared, evenly spread over the same split,
            and over others where it has too few.
        limits: by precision.
        enough: evidence that a verdict needs.
        resamples: of the bootstrap that gives the intervals of AP differences.
        strict: whether INSUFFICIENT fails the stage, too.
        latency_runs: calls whose median is the latency.
        latency_batch: images per call of the second latency.
        at_once: formats that are written and checked at a time, each in a process of its own.
        minutes: after which a process is stopped.
    """

    formats: tuple[str, ...]
    image_size: int | None
    batch_size: int
    dynamic: bool
    opset: int
    simplify: bool
    nms: InsideNms
    calibration_images: int
    licence: str | None
    split: str
    ap_images: int | None
    parity_images: int
    limits: PrecisionLimits
    enough: Enough
    resamples: int
    strict: bool
    latency_runs: int
    latency_batch: int
    at_once: int
    minutes: float

    def __post_init__(self) -> None:
        """Check what a type cannot."""
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats or len(set(self.formats)) < len(self.formats):
            raise ValueError(
                f"formats: choose from {', '.join(FORMATS)}, each once, got {list(self.formats)}"
            )
        for name in ("image_size", "ap_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, or null, got {value}")
        for name in (
            "batch_size",
            "opset",
            "calibration_images",
            "parity_images",
            "resamples",
            "latency_runs",
            "latency_batch",
            "at_once",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; choose one of {', '.join(SPLITS)}")
        if not self.minutes > 0:
            raise ValueError(f"minutes must be more than 0, got {self.minutes}")
