"""ONNX from picture to detections: letterbox, scaling, detector and suppression in one graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from yolo_core.data.letterbox import GREY
from yolo_core.export.base import ExportSettings
from yolo_core.export.onnx_graph import detector_graph, joined_graph, parse_graph, write_graph
from yolo_core.export.onnx_nms import DETECTIONS, OnnxNms, with_nms
from yolo_core.export.onnx_runtime import INPUT
from yolo_core.model.graph import DetectionModel

# In ONNX's own notation, step by step what `yolo_core.data.letterbox.letterbox` does; sizes as height, width,
# in doubles, since a size of x.5 pixels must be rounded to the same side.
_PLACE = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    swap = Constant <value_ints = [1, 0, 1, 0]> ()
    side = Constant <value = int64[2] {%(side)d, %(side)d}> ()
    side_d = Cast <to = 11> (side)
    least_d = Constant <value = double[2] {1.0, 1.0}> ()
    shape = Shape (image)
    old = Slice (shape, zero, two)
    old_d = Cast <to = 11> (old)
    ratios = Div (side_d, old_d)
    scale = ReduceMin <keepdims = 1> (ratios)
    ideal = Mul (old_d, scale)
    rounded = Round (ideal)
    not_empty = Max (rounded, least_d)
    new_d = Min (not_empty, side_d)
    new = Cast <to = 7> (new_d)
    space = Sub (side, new)
    before = Div (space, two)
    after = Sub (space, before)
    smaller = Less (new, old)
    smaller_i = Cast <to = 6> (smaller)
    any_smaller = ReduceMax <keepdims = 0> (smaller_i)
    shrinks = Cast <to = 9> (any_smaller)
"""
# Averaging over areas along one axis, for shrinking: the difference of running sums at the edges of the new
# pixels, where an edge inside an old pixel takes the share of it that lies before the edge.
_AREA = """
        old_%(axis)d = Slice (old_d, %(from)s, %(to)s)
        new_%(axis)d = Slice (new_d, %(from)s, %(to)s)
        step_%(axis)d = Div (old_%(axis)d, new_%(axis)d)
        count_%(axis)d = Slice (new, %(from)s, %(to)s)
        edges_%(axis)d = Add (count_%(axis)d, one)
        edges_s_%(axis)d = Squeeze (edges_%(axis)d)
        from_%(axis)d = Constant <value = int64 {0}> ()
        by_%(axis)d = Constant <value = int64 {1}> ()
        number_%(axis)d = Range (from_%(axis)d, edges_s_%(axis)d, by_%(axis)d)
        number_d_%(axis)d = Cast <to = 11> (number_%(axis)d)
        edge_%(axis)d = Mul (number_d_%(axis)d, step_%(axis)d)
        floor_%(axis)d = Floor (edge_%(axis)d)
        one_d_%(axis)d = Constant <value = double {1.0}> ()
        last_%(axis)d = Sub (old_%(axis)d, one_d_%(axis)d)
        pixel_d_%(axis)d = Min (floor_%(axis)d, last_%(axis)d)
        inside_%(axis)d = Sub (edge_%(axis)d, pixel_d_%(axis)d)
        rest_d_%(axis)d = Sub (one_d_%(axis)d, inside_%(axis)d)
        rest_f_%(axis)d = Cast <to = 1> (rest_d_%(axis)d)
        broadcast_%(axis)d = Constant <value_ints = [%(broadcast)s]> ()
        rest_%(axis)d = Unsqueeze (rest_f_%(axis)d, broadcast_%(axis)d)
        pixel_%(axis)d = Cast <to = 7> (pixel_d_%(axis)d)
        along_%(axis)d = Constant <value = int64 {%(axis)d}> ()
        sums_%(axis)d = CumSum (%(values)s, along_%(axis)d)
        sum_k_%(axis)d = Gather <axis = %(axis)d> (sums_%(axis)d, pixel_%(axis)d)
        sum_f_%(axis)d = Cast <to = 1> (sum_k_%(axis)d)
        cut_k_%(axis)d = Gather <axis = %(axis)d> (%(values)s, pixel_%(axis)d)
        cut_f_%(axis)d = Cast <to = 1> (cut_k_%(axis)d)
        behind_%(axis)d = Mul (cut_f_%(axis)d, rest_%(axis)d)
        total_%(axis)d = Sub (sum_f_%(axis)d, behind_%(axis)d)
        axis_%(axis)d = Constant <value_ints = [%(axis)d]> ()
        minus_%(axis)d = Constant <value_ints = [-1]> ()
        upper_%(axis)d = Slice (total_%(axis)d, one, end, axis_%(axis)d)
        lower_%(axis)d = Slice (total_%(axis)d, zero, minus_%(axis)d, axis_%(axis)d)
        sum_%(axis)d = Sub (upper_%(axis)d, lower_%(axis)d)
        step_f_%(axis)d = Cast <to = 1> (step_%(axis)d)
        mean_%(axis)d = Div (sum_%(axis)d, step_f_%(axis)d)
"""
_RESIZE = """
    fitted = If (shrinks) <
      then_branch = shrink () => (float[h, w, 3] shrunk) {
        whole = Cast <to = 6> (image)
        %(rows)s
        %(columns)s
        shrunk = Identity (mean_1)
      },
      else_branch = grow () => (float[h, w, 3] grown) {
        pixels = Cast <to = 1> (image)
        planes = Transpose <perm = [2, 0, 1]> (pixels)
        stack = Unsqueeze (planes, zero)
        front = Constant <value_ints = [1, 3]> ()
        sizes = Concat <axis = 0> (front, new)
        resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (stack, , , sizes)
        one_image = Squeeze (resized, zero)
        grown = Transpose <perm = [1, 2, 0]> (one_image)
      }
    >
"""
_INPUT = """
    whole_values = Round (fitted)
    dark = Constant <value = float {0.0}> ()
    bright = Constant <value = float {255.0}> ()
    clipped = Clip (whole_values, dark, bright)
    pads = Concat <axis = 0> (before, zero, after, zero)
    grey = Constant <value = float {%(grey)d.0}> ()
    canvas = Pad <mode = "constant"> (clipped, pads, grey)
    scaled = Div (canvas, bright)
    order = Constant <value_ints = [2, 1, 0]> ()
    rgb = Gather <axis = 2> (scaled, order)
    channels_first = Transpose <perm = [2, 0, 1]> (rgb)
    letterboxed = Unsqueeze (channels_first, zero)
    before_f = Cast <to = 1> (before)
    shift = Gather <axis = 0> (before_f, swap)
    ratio_d = Div (new_d, old_d)
    ratio_f = Cast <to = 1> (ratio_d)
    ratio = Gather <axis = 0> (ratio_f, swap)
    old_f = Cast <to = 1> (old_d)
    limit = Gather <axis = 0> (old_f, swap)
"""
_FILLED = ("filled", "number")  # detections and their number, before they are mapped back
_WAY_BACK = "float[4] shift, float[4] ratio, float[4] limit"
_OUTPUT = """
    zero = Constant <value_ints = [0]> ()
    four = Constant <value_ints = [4]> ()
    six = Constant <value_ints = [6]> ()
    columns = Constant <value_ints = [1]> ()
    first = Squeeze (filled, zero)
    rows = Slice (first, zero, number, zero)
    boxes = Slice (rows, zero, four, columns)
    rest = Slice (rows, four, six, columns)
    moved = Sub (boxes, shift)
    stretched = Div (moved, ratio)
    edge = Constant <value = float {0.0}> ()
    positive = Max (stretched, edge)
    inside = Min (positive, limit)
    detections = Concat <axis = 1> (inside, rest)
"""


class OnnxImage(OnnxNms):
    """An .onnx that takes one decoded picture, and gives its detections in the picture's own pixels."""

    name: ClassVar[str] = "onnx-image"
    filename: ClassVar[str] = "model-image.onnx"
    supports: ClassVar[frozenset[str]] = frozenset()
    input: ClassVar[Literal["tensor", "image"]] = "image"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export the detector for one image, and put letterbox and suppression around it."""
        single = replace(settings, batch_size=1)
        proto = with_nms(detector_graph(model, single), settings.nms, _FILLED)
        proto = with_letterbox(proto, settings.image_size)
        write_graph(proto, target, {**metadata, "batch_size": 1})


def with_letterbox(proto: Any, side: int) -> Any:
    """Return the graph of `with_nms`, outputs named `_FILLED`, with a picture of any size as its input.

    It takes "image", uint8 (H, W, 3), BGR, and gives "detections", float32 (n, 6), boxes in that image's
    pixels. Shrinking averages over areas in float32, and growing is linear, as in our own letterbox;
    OpenCV's integers there make single pixels differ by 1 of 255. On 50 photos of COCO at 640 px that moved
    yolov5n's boxes by 1.3 pixels and scores by .010 at most, and one of 265 detections was lost.
    """
    first = letterbox_graph(side, proto)
    given = f"float[1, m, 6] {_FILLED[0]}, int64[1] {_FILLED[1]}, {_WAY_BACK}"
    last = parse_graph(f"back ({given}) => (float[n, 6] {DETECTIONS}) {{{_OUTPUT}}}", proto, "back/")
    joined = joined_graph(first, proto, {"letterboxed": INPUT})
    return joined_graph(joined, last, {name: name for name in (*_FILLED, "shift", "ratio", "limit")})


def letterbox_graph(side: int, like: Any) -> Any:
    """Return the first part, in the opset of a graph: image -> the detector's input, and the way back."""
    rows = {"axis": 0, "from": "zero", "to": "one", "broadcast": "1, 2", "values": "whole"}
    columns = {"axis": 1, "from": "one", "to": "two", "broadcast": "0, 2", "values": "mean_0"}
    body = (
        _PLACE % {"side": side}
        + _RESIZE % {"rows": _AREA % rows, "columns": _AREA % columns}
        + _INPUT % {"grey": GREY}
    )
    made = f"float[1, 3, {side}, {side}] letterboxed, {_WAY_BACK}"
    text = f"letterbox (uint8[height, width, 3] image) => ({made}) {{{body}}}"
    return parse_graph(text, like, "letterbox/")
