"""The detector as a Keras model of standard layers, with the weights of one in PyTorch.

Inside, images and feature maps are (B, H, W, C), Keras's order. Every layer is Keras's own, and constants
are part of the graph, so that the saved model loads without code of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

from yolo_core.errors import UsageError
from yolo_core.export.base import ExportSettings
from yolo_core.model.detect import Detect
from yolo_core.model.graph import DetectionModel, graph_of
from yolo_core.model.layers import C3, SPPF, Concat, Conv
from yolo_core.model.variants import get_variant

INPUT, OUTPUT = "images", "predictions"


def build(keras: ModuleType, model: DetectionModel, settings: ExportSettings) -> Any:
    """Return the `keras.Model` that equals a model which `prepare` made.

    It maps ``images`` (B, S, S, 3), RGB in 0..1, to ``predictions`` (B, N, 5 + nc) as the model gives them;
    B and S are those of the settings.

    Raises:
        UsageError: the model has a layer that this does not know.
    """
    side = settings.image_size
    images = keras.Input((side, side, 3), batch_size=settings.batch_size, name=INPUT)
    outputs = _Builder(keras).run(model, images)
    return keras.Model(images, outputs, name=model.variant)


def to_channels_last(images: Tensor) -> Any:
    """Turn a batch (B, 3, H, W) into an array (B, H, W, 3)."""
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def channels_last(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata for a file whose input is (B, H, W, 3)."""
    decode = metadata["decode"].replace("(B, 3, H, W)", "(B, H, W, 3)")
    return {**metadata, "decode": decode}


class _Builder:
    """Applies Keras layers to symbolic tensors, (B, H, W, C) each, as the modules of a model would."""

    def __init__(self, keras: ModuleType) -> None:
        self.keras = keras
        self.layers = keras.layers

    def run(self, model: DetectionModel, images: Any) -> Any:
        """Apply a whole model: (B, S, S, 3) -> (B, N, 5 + nc)."""
        rows = graph_of(get_variant(model.variant), model.release)
        made = [images]  # then what each layer gives, so that the one before is always the last
        for index, (layer, row) in enumerate(zip(model.model, rows, strict=True)):
            maps = [made[-1] if source == -1 else made[source + 1] for source in row.inputs]
            made.append(self.apply(layer, maps, f"layer{index}"))
        return made[-1]

    def apply(self, layer: nn.Module, maps: list[Any], name: str) -> Any:
        """Apply one layer of the graph to its inputs."""
        if isinstance(layer, Conv):
            return self.conv(layer, maps[0], name)
        if isinstance(layer, C3):
            return self.c3(layer, maps[0], name)
        if isinstance(layer, SPPF):
            return self.sppf(layer, maps[0], name)
        if isinstance(layer, nn.Upsample):
            return self.layers.UpSampling2D(2, name=name)(maps[0])
        if isinstance(layer, Concat):
            return self.layers.Concatenate(name=name)(maps)
        if isinstance(layer, Detect):
            return self.detect(layer, maps)
        raise UsageError(f"the Keras export does not know the layer {type(layer).__name__}")

    def convolution(self, conv: nn.Conv2d, x: Any, name: str) -> Any:
        """Apply a convolution with its weights; PyTorch pads all sides alike, Keras's strided ones do not."""
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        same = stride == 1 and kernel == 2 * int(padding) + 1
        if padding and not same:
            x = self.layers.ZeroPadding2D(int(padding), name=f"{name}_pad")(x)
        layer = self.layers.Conv2D(
            conv.out_channels, kernel, stride, padding="same" if same else "valid", name=name
        )
        out = layer(x)
        assert conv.bias is not None  # `prepare` has folded the batch normalisation into it
        layer.set_weights([conv.weight.permute(2, 3, 1, 0).numpy(), conv.bias.numpy()])
        return out

    def conv(self, block: Conv, x: Any, name: str) -> Any:
        """Apply `Conv`."""
        return self.layers.Activation("silu", name=f"{name}_silu")(self.convolution(block.conv, x, name))

    def c3(self, block: C3, x: Any, name: str) -> Any:
        """Apply `C3`."""
        inner = self.conv(block.cv1, x, f"{name}_cv1")
        for index, bottleneck in enumerate(block.m):
            part = f"{name}_m{index}"
            narrow: Any = bottleneck  # a Bottleneck; Sequential does not say
            out = self.conv(narrow.cv2, self.conv(narrow.cv1, inner, f"{part}_cv1"), f"{part}_cv2")
            inner = self.layers.Add(name=f"{part}_add")([inner, out]) if narrow.add else out
        both = [inner, self.conv(block.cv2, x, f"{name}_cv2")]
        return self.conv(block.cv3, self.layers.Concatenate(name=f"{name}_cat")(both), f"{name}_cv3")

    def sppf(self, block: SPPF, x: Any, name: str) -> Any:
        """Apply `SPPF`; pools that keep the size pad with what is never the largest, as PyTorch's do."""
        maps = [self.conv(block.cv1, x, f"{name}_cv1")]
        side = block.m.kernel_size
        for index in range(3):
            pool = self.layers.MaxPooling2D(side, 1, padding="same", name=f"{name}_pool{index}")
            maps.append(pool(maps[-1]))
        return self.conv(block.cv2, self.layers.Concatenate(name=f"{name}_cat")(maps), f"{name}_cv2")

    def detect(self, head: Detect, maps: list[Any]) -> Any:
        """Apply `Detect`: feature maps -> (B, N, 5 + nc)."""
        levels = []
        for level, (conv, x) in enumerate(zip(head.m, maps, strict=True)):
            assert isinstance(conv, nn.Conv2d)  # a head has one per level
            raw = self.convolution(conv, x, f"head{level}")
            levels.append(self.decode(head, raw, level))
        return self.layers.Concatenate(axis=1, name=OUTPUT)(levels)

    def decode(self, head: Detect, raw: Any, level: int) -> Any:
        """Decode a level as `decode_boxes` does: (B, H, W, A * (5 + nc)) -> (B, A * H * W, 5 + nc).

        With its constants multiplied out: ``xy = s * 2 stride + (cell - 0.5) * stride`` and
        ``wh = s^2 * 4 anchor``.
        """
        height, width = raw.shape[1:3]
        stride = head.strides[level]
        x = self.layers.Reshape((height * width, head.num_anchors, head.outputs), name=f"split{level}")(raw)
        x = self.layers.Permute((2, 1, 3), name=f"order{level}")(x)  # B, A, H * W, 5 + nc
        score = self.layers.Activation("sigmoid", name=f"sigmoid{level}")(x)
        rows, columns = np.divmod(np.arange(height * width, dtype=np.float32), np.float32(width))
        corner = ((np.stack((columns, rows), -1) - 0.5) * stride)[None, None]
        xy = score[..., :2] * (2.0 * stride) + corner.astype(np.float32)
        anchors = head.anchors[level].float().numpy() * stride
        wh = self.keras.ops.square(score[..., 2:4]) * (4 * anchors)[None, :, None]
        joined = self.layers.Concatenate(name=f"join{level}")([xy, wh, score[..., 4:]])
        return self.layers.Reshape((-1, head.outputs), name=f"level{level}")(joined)
