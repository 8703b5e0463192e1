"""OpenCV's DNN module: it runs our .onnx files with raw outputs, where nothing else is installed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from yolo_core.errors import UsageError
from yolo_core.export.backend import Backend
from yolo_core.export.base import broken, toolkit
from yolo_core.export.metadata import METADATA_KEY, read_metadata
from yolo_core.export.onnx_graph import OUTPUT
from yolo_core.export.onnx_runtime import INPUT


def load_opencv(path: Path) -> Backend:
    """Open a .onnx file of format onnx with `cv2.dnn`; the package onnx reads its metadata.

    Raises:
        UsageError: the file is of another format, or the package onnx is missing.
        CheckpointError: the file is broken, or not of this project.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"OpenCV runs .onnx files, not {path.name}; leave the runtime out")
    metadata = read_metadata(_metadata_text(path), path)
    if metadata["format"] != "onnx":
        raise UsageError(
            f"OpenCV runs format onnx, and {path} is {metadata['format']}; leave the runtime out"
        )
    try:
        net = cv2.dnn.readNetFromONNX(str(path))
    except cv2.error as error:
        raise broken(path, error) from None

    def run(images: Tensor) -> Tensor:
        net.setInput(images.numpy(), INPUT)
        # The result lies in memory of the network, which the next call may write to.
        return torch.from_numpy(np.array(net.forward(OUTPUT)))

    return Backend(run, metadata)


def _metadata_text(path: Path) -> str | None:
    onnx = toolkit("onnx", "onnx")
    message = toolkit("google.protobuf.message", "onnx")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (message.DecodeError, OSError) as error:
        raise broken(path, error) from None
    return next((str(entry.value) for entry in proto.metadata_props if entry.key == METADATA_KEY), None)
