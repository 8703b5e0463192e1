"""In which number format a model computes: chosen for the device, or as asked; and images in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from yolo_core.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """A chosen format: its name and whether gradients need loss scaling."""

    name: str
    scaled: bool

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context for the model's forward pass; weights stay float32."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(device.type, DTYPES[self.name])


def to_floats(
    images: Tensor, device: torch.device, layout: torch.memory_format = torch.channels_last
) -> Tensor:
    """Bring uint8 images (B, 3, H, W) to a device as float32 in 0..1, in a memory layout.

    They travel and change their layout as bytes, a quarter of the floats' size; a copy from pinned memory
    does not wait for the device.
    """
    moved = images.to(device, non_blocking=True).contiguous(memory_format=layout)
    return moved.float().div_(255)


def choose_precision(name: str, device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 on a CPU with bf16 instructions, bf16 or else fp16 on a GPU, fp32 elsewhere.

    A CPU without the instructions emulates bf16 several times slower than fp32. Raises `UsageError`
    for an unknown name and for fp16 on a CPU.
    """
    if name not in PRECISIONS:
        raise UsageError(f"precision {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 needs a GPU; choose auto, bf16 or fp32 on a CPU")
    if name == "auto":
        name = _best(device)
    return Precision(name=name, scaled=name == "fp16")


def _best(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16", False) or capabilities.get("amx_tile", False)
    return "bf16" if device.type == "cpu" and fast else "fp32"
