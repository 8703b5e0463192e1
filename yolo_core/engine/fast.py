"""A detector prepared to be run only: normalisation folded in, one number format, few boxes decoded.

On a CPU each convolution and its activation become one oneDNN call, as TorchInductor would compile them, but
without a compiler and at once. The operator is not part of PyTorch's public interface: where it is missing,
the same layers run one by one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_core.engine.precision import DTYPES
from yolo_core.model.detect import decode_boxes
from yolo_core.model.graph import DetectionModel
from yolo_core.model.layers import Conv

# Added to the chosen rows on the wrong side of the confidence, which suppression drops for good.
_LOGIT_MARGIN = 1e-2


class FastDetector:
    """A frozen copy of a model; later changes of the model do not reach it.

    Attributes:
        names: of the classes; num_classes: their number; stride: pixels per cell, as those of the model.
        device: where it computes, and images must lie.
    """

    def __init__(self, model: DetectionModel, *, precision: str = "fp32", device: str = "cpu") -> None:
        """Copy a model, fused or not. ``precision`` is fp32, bf16 or fp16; boxes are float32 in each."""
        self.names = model.names
        self.num_classes = model.num_classes
        self.stride = model.stride
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        copied = copy.deepcopy(model).float().fuse().requires_grad_(False)
        anchors = copied.detect.anchors.to(self.device)
        self._model: DetectionModel = copied.to(self.device, self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model.detect.anchors = anchors  # stay float32
        self._model.detect.train()  # gives raw levels; nothing else in it knows modes
        if self.device.type == "cpu" and self._dtype != torch.float16 and _has_fused_convolution():
            _replace_convolutions(self._model)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, h, w) in 0..1 -> (B, N, 5 + nc), as the model gives in evaluation mode."""
        levels, head = self._raw(images), self._model.detect
        counts = [raw[0, ..., 0].numel() for raw in levels]
        out = torch.empty(len(images), sum(counts), head.outputs, device=images.device)
        for level, (raw, part) in enumerate(zip(levels, torch.split(out, counts, 1), strict=True)):
            # In place: as `Detect.decode`, which makes four more copies of all scores.
            score = part.view(raw.shape).copy_(raw).sigmoid_()
            xy, wh = decode_boxes(score, *head.geometry(score, level))
            score[..., 0:2], score[..., 2:4] = xy, wh
        return out

    @torch.inference_mode()
    def likely(self, images: Tensor, confidence: float) -> list[Tensor]:
        """Decode only the rows whose objectness is about ``confidence`` or more.

        Images (B, 3, h, w) in 0..1 -> per image (n, 5 + nc), in the order of the model's rows. Of the 25,200
        rows of a 640 px image some 2,000 pass 0.001: decoding the rest costs as much as ten layers.
        """
        least = _logit(confidence) - _LOGIT_MARGIN
        levels = [self._decode_above(raw, level, least) for level, raw in enumerate(self._raw(images))]
        return [torch.cat(parts) for parts in zip(*levels, strict=True)]

    def _raw(self, images: Tensor) -> Sequence[Tensor]:
        """Per level (B, A, H, W, 5 + nc)."""
        raw: Sequence[Tensor] = self._model(
            images.to(self._dtype).contiguous(memory_format=torch.channels_last)
        )
        return raw

    def _decode_above(self, raw: Tensor, level: int, least: float) -> list[Tensor]:
        """Per image the decoded rows (n, 5 + nc) of one level."""
        image, anchor, row, column = (raw[..., 4] > least).nonzero(as_tuple=True)
        score = raw[image, anchor, row, column].float().sigmoid_()
        stride = self._model.detect.strides[level]
        anchors = self._model.detect.anchors[level] * stride
        xy, wh = decode_boxes(score, torch.stack((column, row), 1), anchors[anchor], stride)
        counts = torch.bincount(image, minlength=len(raw)).tolist()
        return list(torch.split(torch.cat((xy, wh, score[:, 4:]), 1), counts))


def _logit(chance: float) -> float:
    """Inverse of the sigmoid; infinite at 0 and 1."""
    if chance <= 0 or chance >= 1:
        return math.copysign(math.inf, chance - 0.5)
    return math.log(chance / (1 - chance))


def _has_fused_convolution() -> bool:
    ops = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(ops, name) for name in names)


def _replace_convolutions(model: nn.Module) -> None:
    """Put a `_FusedConv` in the place of every fused `Conv`, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Conv):
                setattr(parent, name, _FusedConv(child.conv))


class _FusedConv(nn.Module):
    """Convolution with bias and SiLU in one pass; the weight is kept in the order that oneDNN likes."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._place: tuple[Any, ...] = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *self._place, None)
        self._bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self._bias, *self._place, "swish", [], ""
        )
        return out
