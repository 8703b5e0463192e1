"""Changes of hue, saturation and value."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_core.data.images import Pixels
from yolo_core.data.scratch import Scratch

_SCRATCH = Scratch()  # per thread


def hsv_to_rgb(image: Pixels, gains: NDArray[np.float64], out: Pixels) -> None:
    """Multiply hue, saturation and value of a picture, in uint8, rounded to the nearest.

    Args:
        image: (h, w, 3) BGR.
        gains: (3,) factors.
        out: (3, h, w) uint8, contiguous; becomes the picture in RGB planes.
    """
    planes = list(out)
    if (gains == 1).all():
        cv2.split(image, planes[::-1])
        return
    hsv = _SCRATCH.picture("hsv", *image.shape[:2])
    cv2.cvtColor(image, cv2.COLOR_BGR2HSV, dst=hsv)
    cv2.split(hsv, planes)
    # OpenCV's hue is a half turn of degrees and goes round; the others stop at 255.
    turned = (np.rint(np.arange(256) * gains[0]) % 180).astype(np.uint8)
    cv2.LUT(planes[0], turned, dst=planes[0])
    for plane, gain in zip(planes[1:], gains[1:].tolist(), strict=True):
        cv2.convertScaleAbs(plane, plane, gain)  # a third of a table's time
    cv2.merge(planes, hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
    cv2.split(hsv, planes)
