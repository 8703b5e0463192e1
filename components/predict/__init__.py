"""Draw a model's detections on images."""
