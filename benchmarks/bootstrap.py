"""Time the paired bootstrap: two detectors, 5,000 images, 1,000 resamples, one thread.

The images are drawn at random with COCO val2017's numbers: 7.3 truths in an image of 80 classes, which are as
unequal as COCO's, and 230 detections in an image per detector, as a threshold of .001 leaves.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from timing import progress

from yolo_core.metrics.bootstrap import BootstrapSettings, ap_differences
from yolo_core.metrics.coco_matching import ImageTruth, match_images

CLASSES = 80


def draw_truth(rng: np.random.Generator, share: np.ndarray) -> ImageTruth:
    """Boxes of one image; some classes are frequent, and an image repeats a few of them."""
    count = int(rng.poisson(7.3))
    present = rng.choice(CLASSES, 3, p=share)
    corner, size = rng.uniform(0, 500, (count, 2)), rng.uniform(10, 140, (count, 2))
    boxes = np.concatenate((corner, corner + size), 1)
    return ImageTruth(boxes=boxes, classes=rng.choice(present, count), crowd=rng.random(count) < 0.012)


def detect(rng: np.random.Generator, truth: ImageTruth, share: np.ndarray, count: int) -> np.ndarray:
    """(count, 6) detections: each truth up to five times, the rest anywhere with low scores."""
    near = np.repeat(np.arange(len(truth.classes)), rng.integers(0, 6, len(truth.classes)))[:count]
    size = np.tile(truth.boxes[near, 2:] - truth.boxes[near, :2], 2)
    boxes = truth.boxes[near] + rng.normal(0, 0.06, (len(near), 4)) * size
    found = np.column_stack((boxes, rng.beta(2, 2, len(near)), truth.classes[near]))
    corner, size = rng.uniform(0, 500, (count - len(near), 2)), rng.uniform(10, 140, (count - len(near), 2))
    labels, scores = rng.choice(CLASSES, len(corner), p=share), rng.beta(0.3, 6, len(corner))
    return np.concatenate((found, np.column_stack((corner, corner + size, scores, labels))))


def main() -> None:
    """Draw, match and resample; print seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=230, help="per image and detector")
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    share = np.arange(1, CLASSES + 1) ** -1.0
    share /= share.sum()
    progress("drawing boxes")
    truths = [draw_truth(rng, share) for _ in range(arguments.images)]
    found = [[detect(rng, truth, share, arguments.detections) for truth in truths] for _ in range(2)]
    progress("matching")
    began = time.perf_counter(), time.process_time()
    first, second = (match_images(truths, rows, CLASSES) for rows in found)
    matched = time.perf_counter(), time.process_time()
    progress("resampling")
    result = ap_differences(first, second, BootstrapSettings(resamples=arguments.resamples))
    ended = time.perf_counter(), time.process_time()
    progress("")
    print(
        f"paired bootstrap, {arguments.images} images, 2 x {arguments.images * arguments.detections} "
        f"detections, {arguments.resamples} resamples"
    )
    print(f"  matching    {matched[0] - began[0]:6.1f} s, cpu {matched[1] - began[1]:6.1f} s")
    print(f"  resampling  {ended[0] - matched[0]:6.1f} s, cpu {ended[1] - matched[1]:6.1f} s")
    print(f"  {(first.truth[:, 0] >= 0).sum()} of {first.truth_counts.sum()} truths found at IoU .5")
    ap = result.ap
    print(f"  AP difference {ap.value:.4f}, interval {ap.low:.4f} to {ap.high:.4f}: {ap.verdict}")


if __name__ == "__main__":
    main()
