"""Boxes, NMS, average precision and confusion matrices."""
