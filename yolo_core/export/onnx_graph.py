"""Graphs of ONNX: made from a model by torch.export, simplified, joined, and written with their metadata."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_core.errors import UsageError
from yolo_core.export.base import ExportSettings, toolkit
from yolo_core.export.metadata import DISTRIBUTION, METADATA_KEY
from yolo_core.export.onnx_runtime import INPUT, open_session
from yolo_core.model.graph import DetectionModel

OUTPUT = "predictions"
# What a simplifier's own faults look like; they share no base but Exception.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_SAME = 1e-3  # of values up to the image's size: what float32 sums in another order differ by
_log = logging.getLogger(__name__)


def detector_graph(model: DetectionModel, settings: ExportSettings) -> Any:
    """Return a model that `prepare` made as an `onnx.ModelProto`: images -> predictions, both float32.

    Raises:
        UsageError: a toolkit is missing, or the opset that was asked for is not to be had.
    """
    toolkit("onnx", "onnx")
    toolkit("onnxscript", "onnx")
    proto = _export(model, settings)
    found = opset_of(proto)
    if found != settings.opset:
        raise UsageError(
            f"the exporter wrote ONNX opset {found} where {settings.opset} was asked for, which it does "
            "not know; choose opset 17 or a later one"
        )
    strip(proto)
    return simplified(proto, settings) if settings.simplify else proto


def write_graph(proto: Any, target: Path, metadata: Mapping[str, Any]) -> None:
    """Check a graph and write it with its metadata; the same graph gives the same bytes."""
    onnx = toolkit("onnx", "onnx")
    about = json.dumps({**metadata, "opset": opset_of(proto)})
    onnx.helper.set_model_props(proto, {METADATA_KEY: about})
    onnx.checker.check_model(proto)
    target.write_bytes(proto.SerializeToString(deterministic=True))


def opset_of(proto: Any) -> int:
    """Return the version of ONNX's own operators that a graph asks for."""
    return next(int(entry.version) for entry in proto.opset_import if entry.domain == "")


def parse_graph(text: str, like: Any, prefix: str) -> Any:
    """Return a graph in ONNX's own notation as a model of the same opset as another, to be joined with it.

    Names get a prefix, but for those of its inputs and outputs.
    """
    onnx = toolkit("onnx", "onnx")
    head = f'<ir_version: {like.ir_version}, opset_import: ["": {opset_of(like)}]>'
    proto = onnx.parser.parse_model(f"{head} {text}")
    return onnx.compose.add_prefix(proto, prefix, rename_inputs=False, rename_outputs=False)


def joined_graph(first: Any, second: Any, links: Mapping[str, str]) -> Any:
    """Return two models as one: outputs of the first, by name, become inputs of the second."""
    onnx = toolkit("onnx", "onnx")
    return onnx.compose.merge_models(
        first, second, io_map=list(links.items()), producer_name=DISTRIBUTION, producer_version=""
    )


def strip(proto: Any) -> None:
    """Remove what the exporter notes at every node: stack traces, with paths of the machine it ran on.

    Shapes between the nodes go too: their symbols are numbered anew in every process.
    """
    proto.graph.doc_string = ""
    del proto.graph.value_info[:]
    for entry in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer):
        entry.ClearField("metadata_props")
        if entry is not proto and entry is not proto.graph:
            entry.doc_string = ""
    for entry in (*proto.graph.input, *proto.graph.output):
        entry.ClearField("metadata_props")


def simplified(proto: Any, settings: ExportSettings) -> Any:
    """Return what onnxslim makes of a graph if that is smaller, valid, and gives the same; else the graph.

    What became of it is logged.
    """
    onnx, onnxslim = toolkit("onnx", "onnx"), toolkit("onnxslim", "onnx")
    before = len(proto.graph.node)
    try:
        slim = onnxslim.slim(_copy(proto))
        onnx.checker.check_model(slim, full_check=True)
    except (*_FAULTS, onnx.checker.ValidationError) as error:
        _log.warning("onnxslim failed (%s); the graph stays as torch wrote it", str(error)[:160])
        return proto
    if len(slim.graph.node) >= before:
        _log.info("onnxslim found nothing to simplify in %d nodes", before)
        return proto
    change = _difference(proto, slim, settings)
    if not change <= _SAME:  # not a number is a change too
        _log.warning("onnxslim changed the output by %g; the graph stays as torch wrote it", change)
        return proto
    _log.info("onnxslim: %d nodes instead of %d, largest difference %g", len(slim.graph.node), before, change)
    strip(slim)
    return slim


def _copy(proto: Any) -> Any:
    twin = type(proto)()
    twin.CopyFrom(proto)
    return twin


def _difference(first: Any, second: Any, settings: ExportSettings) -> float:
    """Largest difference of two graphs' outputs on noise."""
    noise = np.random.default_rng(0).random(settings.shape, np.float32)
    outputs = [
        open_session(proto.SerializeToString()).run([OUTPUT], {INPUT: noise})[0] for proto in (first, second)
    ]
    return float(np.abs(outputs[0] - outputs[1]).max())


def _export(model: DetectionModel, settings: ExportSettings) -> Any:
    """Return the model as an `onnx.ModelProto`."""
    example, shapes = torch.zeros(settings.shape), None
    if settings.dynamic:
        example, shapes = _open_shapes(model)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (example,),
                opset_version=settings.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"ONNX export failed ({said}); install the versions of requirements/ml.txt, or leave onnx out"
        ) from error
    if program is None:
        raise UsageError("torch.onnx.export returned nothing; install the versions of requirements/ml.txt")
    proto = program.model_proto
    if settings.dynamic:
        proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "boxes"
    return proto


def _open_shapes(model: DetectionModel) -> tuple[torch.Tensor, Any]:
    """Return an example, no two sides of it alike, and what is open of it: batch, and cells per side."""
    stride = max(model.detect.strides)
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    example = torch.zeros(2, 3, 3 * stride, 4 * stride)
    return example, ({0: batch, 2: stride * height, 3: stride * width},)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice and its fallback notes off the console; what matters is checked after."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
