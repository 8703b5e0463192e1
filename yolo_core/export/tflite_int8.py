"""Eight-bit quantisation for TensorFlow Lite that keeps precision: a float head, and no range for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from yolo_core.errors import UsageError
from yolo_core.export.base import ExportSettings, toolkit
from yolo_core.export.keras_graph import to_channels_last

_FLATBUFFERS = "tensorflow.lite.tools.flatbuffer_utils"
# SiLU maps what is below to 0 within .003, far less than a step of its own output's 256.
_LOWEST = -8.0


def quantise(tensorflow: ModuleType, converter: Any, settings: ExportSettings) -> bytes:
    """Return the file of a model with weights (per channel) and activations (per tensor) in int8.

    The range of every activation is that on the calibration images, with two exceptions, without which the
    model finds nothing or little. The head and the decoding stay in float: in 256 steps, pixels would lie 2.5
    apart, and scores on the same scale vanish. And the input of SiLU is cut off at -8: SiLU flattens what is
    below, but with that tail in it a range is so wide that the steps of what matters are coarse.

    Args:
        tensorflow: the package.
        converter: a `TFLiteConverter` of the model, not used yet.
        settings: with calibration images.

    Raises:
        UsageError: there are no calibration images.
    """
    images = _representative(settings)
    converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    experimental = tensorflow.lite.experimental
    debugger = experimental.QuantizationDebugger(converter=converter, debug_dataset=images)
    measured, head = _adapt(debugger.calibrated_model)
    debugger.calibrated_model = measured
    debugger.options = experimental.QuantizationDebugOptions(denylisted_nodes=head)
    content: bytes = debugger.get_nondebug_quantized_model()
    return content


def _representative(settings: ExportSettings) -> Callable[[], Iterator[list[Any]]]:
    """Return a function that yields full batches as the converter wants them."""
    count = sum(1 for _ in settings.calibration_images())
    if not count:
        raise UsageError("no images to calibrate with; pass at least one as ExportSettings(calibration=...)")

    def batches() -> Iterator[list[Any]]:
        for image in settings.calibration_images():
            # Every place of the batch gets the same image: extremes are all that is measured.
            yield [to_channels_last(image.expand(settings.batch_size, -1, -1, -1))]

    return batches


def _adapt(calibrated: bytes) -> tuple[bytes, list[str]]:
    """Cut off the ranges of SiLU's inputs; return the model with the names of the operations of the head.

    The head is what no convolution follows: its own convolutions and the decoding.
    """
    buffers = toolkit(_FLATBUFFERS, "tflite-int8")
    model = buffers.convert_bytearray_to_object(bytearray(calibrated))
    graph = model.subgraphs[0]
    head: list[str] = []
    convolved: set[int] = set()  # tensors that a convolution follows
    for operator in reversed(graph.operators):
        kind = buffers.opcode_to_name(model, operator.opcodeIndex)
        if not convolved.intersection(operator.outputs):
            head += [graph.tensors[index].name.decode() for index in operator.outputs]
        if kind == "CONV_2D" or convolved.intersection(operator.outputs):
            convolved.update(operator.inputs)
        if kind == "LOGISTIC":
            measured = graph.tensors[operator.inputs[0]].quantization
            if measured is not None and measured.min is not None:
                measured.min = np.maximum(measured.min, _LOWEST).astype(np.float32)
    return bytes(buffers.convert_object_to_bytearray(model)), head
