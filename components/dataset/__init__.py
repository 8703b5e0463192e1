"""Materialise one version of the dataset in the canonical layout of `yolo_core.data.coco`."""
