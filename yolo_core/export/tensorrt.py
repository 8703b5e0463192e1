"""TensorRT: an engine for one kind of NVIDIA GPU, built from our ONNX file.

Written after NVIDIA's documentation of TensorRT 10 and never run: it needs an NVIDIA GPU, which nobody had
here. Later releases took out the choice of precision at building time that this uses.

The file is ``YOLOTRT1``, the length of a JSON text as 8 bytes, little-endian, that text (our metadata), and
from there to its end the plan that `tensorrt.Runtime.deserialize_cuda_engine` takes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from yolo_core.errors import CheckpointError, UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import DYNAMIC, ExportSettings, Format
from yolo_core.export.metadata import read_metadata
from yolo_core.export.onnx import Onnx
from yolo_core.model.graph import DetectionModel

INPUT, OUTPUT = "images", "predictions"  # of our ONNX
MAGIC = b"YOLOTRT1"
_LENGTH = struct.Struct("<Q")
_RELEASE = "10"


class TensorRt(Format):
    """An engine in float16 with float32 in and out.

    With ``dynamic`` it takes one image of the stride's side and all up to the size and batch of the settings.
    """

    name: ClassVar[str] = "tensorrt"
    filename: ClassVar[str] = "model.engine"
    suffix: ClassVar[str] = ".engine"
    packages: ClassVar[tuple[str, ...]] = ()  # none of the extra `export`; see check_toolkit
    precision: ClassVar[Literal["fp32", "fp16", "bf16", "int8"]] = "fp16"
    supports: ClassVar[frozenset[str]] = frozenset({DYNAMIC})

    def check_toolkit(self) -> None:
        """Raise `UsageError` if there is no NVIDIA GPU, or no TensorRT of the right release."""
        _tensorrt()
        Onnx().check_toolkit()

    def cannot_run(self) -> str | None:
        """Say what is missing: a GPU or the package."""
        try:
            _tensorrt()
        except UsageError as error:
            return str(error)
        return None

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export to ONNX, parse that, and let the builder choose the fastest kernels of this GPU."""
        tensorrt = _tensorrt()
        source = target.with_name("model.onnx")
        Onnx().write(model, source, settings, metadata)
        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse(source.read_bytes()):
            said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
            raise UsageError(f"TensorRT cannot read the ONNX model ({said[:160]}); try another opset")
        config = builder.create_builder_config()
        config.set_flag(tensorrt.BuilderFlag.FP16)
        if settings.dynamic:
            profile = builder.create_optimization_profile()
            stride = max(metadata["stride"])
            profile.set_shape(INPUT, (1, 3, stride, stride), settings.shape, settings.shape)
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UsageError(f"TensorRT could not build an engine of {model.variant}; is GPU memory left?")
        target.write_bytes(pack(metadata, bytes(plan)))

    def load(self, path: Path) -> Backend:
        """Open an engine on the GPU; it must be of the kind that it was built on."""
        metadata, plan = unpack(path)
        tensorrt = _tensorrt()
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise CheckpointError(
                f"{path} was built for another GPU or TensorRT, or is broken; export it again"
            )
        context = engine.create_execution_context()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

        def run(images: Tensor) -> Tensor:
            batch = images.cuda().contiguous()
            if not context.set_input_shape(INPUT, tuple(batch.shape)):
                raise UsageError(f"{path} takes no images of shape {tuple(batch.shape)}; export it for them")
            found = torch.empty(tuple(context.get_tensor_shape(OUTPUT)), device="cuda")
            context.set_tensor_address(INPUT, batch.data_ptr())
            context.set_tensor_address(OUTPUT, found.data_ptr())
            stream.wait_stream(torch.cuda.current_stream())  # the copy above
            if not context.execute_async_v3(stream.cuda_stream):
                raise UsageError(f"TensorRT could not run {path}; is GPU memory left?")
            stream.synchronize()
            return found.cpu()

        return Backend(run, metadata)


def pack(metadata: Mapping[str, Any], plan: bytes) -> bytes:
    """Return the content of a file: magic, length, metadata, plan."""
    text = json.dumps(metadata).encode()
    return MAGIC + _LENGTH.pack(len(text)) + text + plan


def unpack(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a file's metadata and plan.

    Raises:
        CheckpointError: it is not of this project, or cut short.
    """
    content = path.read_bytes()
    start = len(MAGIC) + _LENGTH.size
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path} was not exported by this project: it does not begin with {MAGIC!r}")
    end = start + (_LENGTH.unpack_from(content, len(MAGIC))[0] if len(content) >= start else 0)
    if not start < end < len(content):
        raise CheckpointError(f"{path} is broken: it is cut short; export it again")
    return read_metadata(content[start:end], path), content[end:]


def _tensorrt() -> ModuleType:
    """Import TensorRT where there is a GPU for it.

    Raises:
        UsageError: GPU or package is missing, or of another release.
    """
    wanted = f"needs an NVIDIA GPU and TensorRT {_RELEASE}: pip install 'tensorrt=={_RELEASE}.*'"
    if not torch.cuda.is_available():
        raise UsageError(f"format tensorrt {wanted}; there is no such GPU here")
    try:
        found = import_module("tensorrt")
    except ImportError as error:
        raise UsageError(f"format tensorrt {wanted} ({error})") from None
    if found.__version__.partition(".")[0] != _RELEASE:
        raise UsageError(f"format tensorrt {wanted}, not {found.__version__}")
    return found
