"""ONNX with non-maximum suppression in the graph: images in, detections out, no code of ours behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from yolo_core.export.base import ExportSettings
from yolo_core.export.onnx import Onnx
from yolo_core.export.onnx_graph import OUTPUT, detector_graph, joined_graph, parse_graph, write_graph
from yolo_core.metrics.nms import CLASS_OFFSET, NmsSettings
from yolo_core.model.graph import DetectionModel

DETECTIONS, COUNTS = "detections", "counts"
# In ONNX's own notation. Predictions (B, N, 5 + nc) -> boxes xyxy (B, N, 4) and the parts of the scores.
_SPLIT = """
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    four = Constant <value_ints = [4]> ()
    five = Constant <value_ints = [5]> ()
    last = Constant <value_ints = [9223372036854775807]> ()
    axis = Constant <value_ints = [2]> ()
    half = Constant <value = float {0.5}> ()
    centre = Slice (predictions, zero, two, axis)
    extent = Slice (predictions, two, four, axis)
    objectness = Slice (predictions, four, five, axis)
    classes = Slice (predictions, five, last, axis)
    reach = Mul (extent, half)
    low = Sub (centre, reach)
    high = Add (centre, reach)
    boxes = Concat <axis = 2> (low, high)
"""
# A box has one class, its best: one suppression for all, with boxes shifted apart by class as our own is.
_BEST = """
    best = ArgMax <axis = 2, keepdims = 1, select_last_index = 0> (classes)
    best_score = GatherElements <axis = 2> (classes, best)
    score = Mul (objectness, best_score)
    scores = Transpose <perm = [0, 2, 1]> (score)
    best_float = Cast <to = 1> (best)
    shift = Constant <value = float {%(shift)r}> ()
    offsets = Mul (best_float, shift)
    apart = Add (boxes, offsets)
"""
# A box has every class whose score is high enough: one suppression per class.
_EVERY = """
    score = Mul (objectness, classes)
    scores = Transpose <perm = [0, 2, 1]> (score)
    apart = Identity (boxes)
"""
# Chosen triples (K, 3) of image, class, box -> per image the best, filled up with zeros to a fixed number.
# As many empty rows are put behind the chosen ones, so that there is always enough to take.
_CHOOSE = """
    most = Constant <value_ints = [%(most)d]> ()
    overlap = Constant <value_floats = [%(iou)r]> ()
    least = Constant <value_floats = [%(confidence)r]> ()
    chosen = NonMaxSuppression (apart, scores, most, overlap, least)
    image_index = Slice (chosen, zero, one, one)
    box_index = Slice (chosen, two, last, one)
    place = Concat <axis = 1> (image_index, box_index)
    chosen_boxes = GatherND (boxes, place)
    chosen_scores_flat = GatherND (scores, chosen)
    chosen_scores = Unsqueeze (chosen_scores_flat, one)
    %(category)s
    chosen_class = Cast <to = 1> (category)
    real = Concat <axis = 1> (chosen_boxes, chosen_scores, chosen_class)
    empty = Constant <value = float[%(most)d, 6] {%(zeros)s}> ()
    rows = Concat <axis = 0> (real, empty)
    shape = Shape (predictions)
    batch = Gather <axis = 0> (shape, zero)
    batch_scalar = Squeeze (batch, zero)
    from = Constant <value = int64 {0}> ()
    by = Constant <value = int64 {1}> ()
    images_flat = Range (from, batch_scalar, by)
    every_image = Unsqueeze (images_flat, one)
    owner = Transpose <perm = [1, 0]> (image_index)
    own = Equal (every_image, owner)
    owner_scores = Transpose <perm = [1, 0]> (chosen_scores)
    nothing = Constant <value = float {0.0}> ()
    own_scores = Where (own, owner_scores, nothing)
    fill_shape = Concat <axis = 0> (batch, most)
    fill = Expand (nothing, fill_shape)
    ranked = Concat <axis = 1> (own_scores, fill)
    top_scores, top = TopK <axis = 1, largest = 1, sorted = 1> (ranked, most)
    top_rows = Gather <axis = 0> (rows, top)
    positive = Greater (top_scores, nothing)
    kept = Cast <to = 1> (positive)
    mask = Unsqueeze (kept, two)
    %(rows)s = Mul (top_rows, mask)
    whole = Cast <to = 7> (positive)
    %(counts)s = ReduceSum <keepdims = 0> (whole, one)
"""
_BEST_CATEGORY = "category = GatherND (best, place)"
_EVERY_CATEGORY = "category = Slice (chosen, one, two, one)"


class OnnxNms(Onnx):
    """An .onnx whose outputs are detections, with the settings that were exported."""

    name: ClassVar[str] = "onnx-nms"
    filename: ClassVar[str] = "model-nms.onnx"
    output: ClassVar[Literal["raw", "detections"]] = "detections"

    def write(
        self, model: DetectionModel, target: Path, settings: ExportSettings, metadata: Mapping[str, Any]
    ) -> None:
        """Export the detector and put suppression behind it."""
        proto = with_nms(detector_graph(model, settings), settings.nms)
        write_graph(proto, target, metadata)


def with_nms(proto: Any, nms: NmsSettings, outputs: tuple[str, str] = (DETECTIONS, COUNTS)) -> Any:
    """Return a detector's graph with suppression behind it.

    Its outputs are detections, float32 (B, max_detections, 6): x1, y1, x2, y2 in input pixels, score, class
    index, best first, then rows of zeros; and counts, int64 (B,): rows that are detections. Beside the limit
    on candidates, which the operator does not have, the rule is that of `yolo_core.metrics.nms`.
    """
    return joined_graph(proto, nms_graph(proto, nms, outputs), {OUTPUT: OUTPUT})


def nms_graph(proto: Any, nms: NmsSettings, outputs: tuple[str, str] = (DETECTIONS, COUNTS)) -> Any:
    """Return suppression alone, in the opset of a graph: predictions -> detections and counts."""
    every = nms.multi_label and not nms.agnostic  # without classes a box can win only once
    values = {
        "most": nms.max_detections,
        "iou": float(nms.iou),
        "confidence": float(nms.confidence),
        "shift": 0.0 if nms.agnostic else CLASS_OFFSET,
        "zeros": ", ".join(["0"] * 6 * nms.max_detections),
        "category": _EVERY_CATEGORY if every else _BEST_CATEGORY,
        "rows": outputs[0],
        "counts": outputs[1],
    }
    body = (_SPLIT + (_EVERY if every else _BEST) + _CHOOSE) % values
    given = f"float[batch, n, values] {OUTPUT}"
    made = f"float[batch, {nms.max_detections}, 6] {outputs[0]}, int64[batch] {outputs[1]}"
    return parse_graph(f"suppression ({given}) => ({made}) {{{body}}}", proto, "nms/")
