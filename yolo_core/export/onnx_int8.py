"""ONNX in eight bits for ONNX Runtime: weights per channel, activations measured on real images.

Quantised statically in QDQ form: the graph keeps its float operators between pairs of QuantizeLinear and
DequantizeLinear, which the runtime fuses. The last convolutions, and all that decodes what they give, stay in
float: a box of 640 pixels in 256 steps is 2.5 pixels off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from yolo_core.export.base import ExportSettings, toolkit
from yolo_core.export.calibration import about_calibration, calibration_batches
from yolo_core.export.onnx import Onnx
from yolo_core.export.onnx_graph import detector_graph, strip, write_graph
from yolo_core.export.onnx_runtime import INPUT
from yolo_core.model.graph import DetectionModel

# All that feature maps go through, so that they stay in eight bits from the first convolution to the last.
_OPERATORS = ["Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"]
# The range of an activation is the mean of its ranges over the images. Measured with yolov5n at 640 px on the
# half of COCO128 that does not calibrate: AP .5:.95 falls from .405 to .399 (mean), .393 (extremes of 64
# images), .401 (extremes of 8), .401 and .395 (99.999th and 99.99th percentile of 8). Extremes get worse with
# every image, percentiles need all activations in memory; the entropy method gave what extremes give.
_RANGES = {"CalibMovingAverage": True}


class OnnxInt8(Onnx):
    """An .onnx with raw outputs like `Onnx`, whose products are of eight bits."""

    name: ClassVar[str] = "onnx-int8"
    filename: ClassVar[str] = "model-int8.onnx"
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "int8"
    calibrated: ClassVar[bool] = True
    supports: ClassVar[frozenset[str]] = frozenset()

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export the detector, run it on the calibration images, and write it in eight bits.

        Raises:
            UsageError: there are no calibration images, or they have another size.
        """
        batches = calibration_batches(settings, self.name)
        first = next(batches)  # before the export, which takes a while
        proto = quantised(detector_graph(model, settings), chain([first], batches))
        write_graph(proto, target, {**metadata, **about_calibration(settings)})


def quantised(proto: Any, batches: Iterator[Tensor]) -> Any:
    """Return a detector's graph with the operators between input and head in eight bits."""
    onnx = toolkit("onnx", OnnxInt8.name)
    quantization = toolkit("onnxruntime.quantization", OnnxInt8.name)
    preparing = toolkit("onnxruntime.quantization.shape_inference", OnnxInt8.name)
    with tempfile.TemporaryDirectory(prefix="int8-") as scratch:
        plain, ready, done = (Path(scratch) / f"{name}.onnx" for name in ("plain", "ready", "done"))
        onnx.save(proto, str(plain))
        preparing.quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready),
            str(done),
            _reader(quantization, batches),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=head_nodes(onnx.load(str(ready))),
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options=_RANGES,
        )
        found = onnx.load(str(done))
    strip(found)
    return found


def head_nodes(proto: Any) -> list[str]:
    """Names of the nodes behind which no convolution comes: the head's convolutions, and its decoding."""
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    leads: dict[str, bool] = {}  # node -> whether a convolution comes behind it; nodes come sorted
    for node in reversed(proto.graph.node):
        behind = [reader for name in node.output for reader in readers.get(name, [])]
        leads[node.name] = any(reader.op_type == "Conv" or leads[reader.name] for reader in behind)
    return [node.name for node in proto.graph.node if not leads[node.name]]


def _reader(quantization: Any, batches: Iterator[Tensor]) -> Any:
    """Return the batches as ONNX Runtime's quantiser asks for them: one by one, None at the end."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # known at run time only
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Reader()
