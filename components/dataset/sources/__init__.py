"""Readers of dataset folders made elsewhere: COCO, YOLO and Pascal VOC."""
