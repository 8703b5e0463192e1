"""The two graphs of release v6.0 as tables, and the model that is built from them.

Graphs of v5.0 are the same tables with three changes, so that old checkpoints can be used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yolo_core.errors import UsageError
from yolo_core.model.detect import Detect
from yolo_core.model.layers import C3, SPPF, Concat, Conv
from yolo_core.model.variants import Variant, get_variant

Kind = Literal["conv", "c3", "sppf", "upsample", "concat", "detect"]
Release = Literal["6.0", "5.0"]

POOL_KERNEL = 5  # side of the max-pools of SPPF; of the smallest one of v5.0's SPP


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One row of a graph, before the variant's multipliers.

    ``inputs`` are layer indices, or -1 for the layer before. ``channels`` are the output channels;
    0 where they follow from the inputs.
    """

    kind: Kind
    channels: int = 0
    inputs: tuple[int, ...] = (-1,)
    repeats: int = 1
    kernel: int = 3
    stride: int = 2
    padding: int | None = None
    shortcut: bool = True


def _stem() -> Layer:
    return Layer(kind="conv", channels=64, kernel=6, stride=2, padding=2)


def _down(channels: int) -> Layer:
    return Layer(kind="conv", channels=channels, kernel=3, stride=2)


def _squeeze(channels: int) -> Layer:
    return Layer(kind="conv", channels=channels, kernel=1, stride=1)


def _c3(channels: int, repeats: int) -> Layer:
    return Layer(kind="c3", channels=channels, repeats=repeats)


def _neck(channels: int) -> Layer:
    return Layer(kind="c3", channels=channels, repeats=3, shortcut=False)


def _sppf() -> Layer:
    return Layer(kind="sppf", channels=1024, kernel=POOL_KERNEL)


def _up() -> Layer:
    return Layer(kind="upsample")


def _concat(*inputs: int) -> Layer:
    return Layer(kind="concat", inputs=inputs)


def _detect(*inputs: int) -> Layer:
    return Layer(kind="detect", inputs=inputs)


# Layers 0 to 6 are common to both graphs: down to stride 16.
_TRUNK = (_stem(), _down(128), _c3(128, 3), _down(256), _c3(256, 6), _down(512), _c3(512, 9))

# fmt: off
P5_GRAPH: tuple[Layer, ...] = (
    *_TRUNK, _down(1024), _c3(1024, 3), _sppf(),                        # 7-9: stride 32
    _squeeze(512), _up(), _concat(-1, 6), _neck(512),                   # 10-13: top down, stride 16
    _squeeze(256), _up(), _concat(-1, 4), _neck(256),                   # 14-17: stride 8 -> P3
    _down(256), _concat(-1, 14), _neck(512),                            # 18-20: bottom up -> P4
    _down(512), _concat(-1, 10), _neck(1024),                           # 21-23: -> P5
    _detect(17, 20, 23),
)
P6_GRAPH: tuple[Layer, ...] = (
    *_TRUNK, _down(768), _c3(768, 3), _down(1024), _c3(1024, 3), _sppf(),  # 7-11: strides 32, 64
    _squeeze(768), _up(), _concat(-1, 8), _neck(768),                   # 12-15: top down, stride 32
    _squeeze(512), _up(), _concat(-1, 6), _neck(512),                   # 16-19: stride 16
    _squeeze(256), _up(), _concat(-1, 4), _neck(256),                   # 20-23: stride 8 -> P3
    _down(256), _concat(-1, 20), _neck(512),                            # 24-26: bottom up -> P4
    _down(512), _concat(-1, 16), _neck(768),                            # 27-29: -> P5
    _down(768), _concat(-1, 12), _neck(1024),                           # 30-32: -> P6
    _detect(23, 26, 29, 32),
)
# fmt: on


def graph_of(variant: Variant, release: Release = "6.0") -> tuple[Layer, ...]:
    """The graph of a variant, as rows to be multiplied.

    Against v6.0, v5.0 repeats the C3 of stride 8 nine times, and pools before the backbone's last C3, which
    has no shortcut. Its Focus stem and SPP are built as the strided Conv and SPPF that equal them.
    """
    graph = list(P6_GRAPH if variant.p6 else P5_GRAPH)
    if release == "5.0":
        graph[4] = replace(graph[4], repeats=9)
        pool = pooling_index(variant, "6.0")
        graph[pool - 1], graph[pool] = graph[pool], replace(graph[pool - 1], shortcut=False)
    return tuple(graph)


def pooling_index(variant: Variant, release: Release) -> int:
    """Index of the SPPF layer in a variant's graph."""
    last = 11 if variant.p6 else 9
    return last if release == "6.0" else last - 1


def scale_channels(channels: int, width: float) -> int:
    """Multiply a layer's channels by the variant's width, rounded up to a multiple of 8."""
    return math.ceil(channels * width / 8) * 8


def scale_repeats(repeats: int, depth: float) -> int:
    """Multiply a block's repeats by the variant's depth; one at least."""
    return max(round(repeats * depth), 1)


class DetectionModel(nn.Module):
    """A YOLOv5 v6.0 detector.

    ``model`` holds the layers in graph order, so that state-dict names are ``model.<i>...`` as in
    the release's checkpoints. Attributes: ``variant`` (name), ``release`` (of the graph), ``names`` (of the
    classes), ``num_classes``, ``stride`` (pixels per cell of each level, a CPU tensor), ``detect`` (the head)
    and ``metadata`` (what the checkpoint that the model came from says of itself).
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int,
        names: Sequence[str],
        anchors: Sequence[Sequence[float]],
        release: Release = "6.0",
    ) -> None:
        """``anchors`` in input pixels, one row w, h, w, h, ... per level. See `create_model`."""
        super().__init__()
        self.variant = variant.name
        self.release: Release = release
        self.names = tuple(names)
        self.num_classes = num_classes
        self.metadata: dict[str, Any] = {}
        graph = graph_of(variant, release)
        self._inputs = tuple(_absolute(layer.inputs, i) for i, layer in enumerate(graph))
        self._kept = frozenset(j for i, row in enumerate(self._inputs) for j in row if j != i - 1)
        self.model = _build_layers(graph, self._inputs, variant, (num_classes, anchors))

    @property
    def detect(self) -> Detect:
        """The detection head, the last layer."""
        head = self.model[-1]
        assert isinstance(head, Detect)  # both graphs end in one
        return head

    @property
    def stride(self) -> Tensor:
        """Pixels per cell of each level, fine to coarse: float32 (levels,), on the CPU."""
        return torch.tensor(self.detect.strides, dtype=torch.float32, device="cpu")

    @property
    def pool_kernel(self) -> int:
        """Side of SPPF's max-pools, in cells; some weights of v5.0 were trained with others than 5."""
        side = self._pooling.m.kernel_size
        return side if isinstance(side, int) else side[0]

    @pool_kernel.setter
    def pool_kernel(self, kernel: int) -> None:
        self._pooling.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    @property
    def _pooling(self) -> SPPF:
        layer = self.model[pooling_index(get_variant(self.variant), self.release)]
        assert isinstance(layer, SPPF)  # both graphs have one there
        return layer

    @property
    def fused(self) -> bool:
        """Whether `fuse` has folded the batch normalisations away."""
        stem = self.model[0]
        return isinstance(stem, Conv) and isinstance(stem.bn, nn.Identity)

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Images (B, 3, H, W) in 0..1, H and W multiples of the largest stride.

        Training mode: a list of (B, 3, H / stride, W / stride, 5 + nc) raw values per level.
        Evaluation mode: (B, N, 5 + nc) with boxes as centre x, y, w, h in pixels and scores in 0..1.
        """
        kept: dict[int, Tensor] = {}
        x: Any = images
        for index, layer in enumerate(self.model):
            inputs = self._inputs[index]
            if isinstance(layer, (Concat, Detect)):
                x = layer([x if j == index - 1 else kept[j] for j in inputs])
            else:
                x = layer(x if inputs[0] == index - 1 else kept[inputs[0]])
            if index in self._kept:
                kept[index] = x
        result: list[Tensor] | Tensor = x
        return result

    def fuse(self) -> DetectionModel:
        """Fold every batch normalisation into its convolution, in place, for inference; returns itself."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fuse()
        return self.eval()


def _absolute(inputs: tuple[int, ...], index: int) -> tuple[int, ...]:
    return tuple(index - 1 if j == -1 else j for j in inputs)


def _build_layers(
    graph: Sequence[Layer],
    inputs: Sequence[tuple[int, ...]],
    variant: Variant,
    head: tuple[int, Sequence[Sequence[float]]],
) -> nn.Sequential:
    """Build the layers of a graph; ``head`` is (number of classes, anchors in pixels)."""
    layers: list[nn.Module] = []
    channels: list[int] = []
    for index, row in enumerate(graph):
        c_in = [channels[j] if j >= 0 else 3 for j in inputs[index]]
        if row.kind == "detect":
            layers.append(Detect(head[0], head[1], variant.strides, c_in))
            break
        module, c_out = _build_layer(row, c_in, variant)
        layers.append(module)
        channels.append(c_out)
    return nn.Sequential(*layers)


def _build_layer(row: Layer, c_in: list[int], variant: Variant) -> tuple[nn.Module, int]:
    """Build one layer; returns it with its output channels."""
    c_out = scale_channels(row.channels, variant.width)
    if row.kind == "conv":
        return Conv(c_in[0], c_out, row.kernel, row.stride, padding=row.padding), c_out
    if row.kind == "c3":
        repeats = scale_repeats(row.repeats, variant.depth)
        return C3(c_in[0], c_out, repeats, shortcut=row.shortcut), c_out
    if row.kind == "sppf":
        return SPPF(c_in[0], c_out, row.kernel), c_out
    if row.kind == "upsample":
        return nn.Upsample(scale_factor=2, mode="nearest"), c_in[0]
    return Concat(), sum(c_in)


def create_model(
    name: str,
    num_classes: int = 80,
    *,
    names: Sequence[str] | None = None,
    anchors: Sequence[Sequence[float]] | None = None,
    release: Release = "6.0",
) -> DetectionModel:
    """Build one of the ten variants with fresh weights, in training mode.

    Args:
        name: one of `VARIANTS`, for example "yolov5n".
        num_classes: number of classes, 1 or more.
        names: class names by index; "class0", "class1", ... if not given.
        anchors: one row w, h, w, h, ... in input pixels per level; the release's if not given.
        release: whose graph; "5.0" only serves to use weights of that time.

    Raises:
        UnknownVariantError: no such variant.
        UsageError: the class count, names or anchors do not fit.
    """
    variant = get_variant(name)
    if num_classes < 1:
        raise UsageError(f"num_classes is {num_classes}; a detector needs at least one class")
    labels = tuple(names) if names is not None else tuple(f"class{i}" for i in range(num_classes))
    if len(labels) != num_classes:
        raise UsageError(f"{len(labels)} class names for {num_classes} classes; give one name per class")
    table = variant.anchors if anchors is None else anchors
    _check_anchors(table, variant)
    return DetectionModel(variant, num_classes, labels, table, release)


def _check_anchors(anchors: Sequence[Sequence[float]], variant: Variant) -> None:
    widths = {len(row) for row in anchors}
    levels = len(variant.strides)
    if len(anchors) != levels or widths != {6}:
        raise UsageError(
            f"anchors for {variant.name} must be {levels} rows of 3 pairs w, h in pixels; "
            f"got {len(anchors)} rows of {sorted(widths)} values"
        )
    if not all(value > 0 and math.isfinite(value) for row in anchors for value in row):
        raise UsageError(f"anchors for {variant.name} must be positive sizes in pixels")
