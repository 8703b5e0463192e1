"""Measure how often the bootstrap is right: intervals that hold the true difference, equals called different.

Two detectors see images that are drawn from one world (as in bootstrap.py, with fewer classes); the true
difference of their APs is that on 4,000 images. Many small datasets are drawn, each gives a paired interval.
"""

from __future__ import annotations

import argparse

import bootstrap
import numpy as np
from timing import progress

from yolo_core.metrics.bootstrap import BootstrapSettings, ap_differences, average_precisions
from yolo_core.metrics.coco_matching import CocoMatches, match_images

WORLD, DETECTIONS, SHIFT = 4000, 40, 2.0  # images; per image; pixels that the worse one's corners are off
SIZES = (40, 150)  # images of a dataset


def draw(seed: int, images: int, classes: int, worse: bool) -> tuple[CocoMatches, CocoMatches]:
    """Two detectors on the same images: equally good, or the second worse."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, classes + 1) ** -1.0
    share /= share.sum()
    truths = [bootstrap.draw_truth(rng, share) for _ in range(images)]
    first, second = ([bootstrap.detect(rng, truth, share, DETECTIONS) for truth in truths] for _ in range(2))
    if worse:
        for rows in second:
            rows[:, :2] += rng.normal(0, SHIFT, (len(rows), 2))
    return match_images(truths, first, classes), match_images(truths, second, classes)


def ap(matches: CocoMatches) -> float:
    """AP over the classes with truths, of the images as they are."""
    once = np.ones((1, len(matches.truth_counts)), np.int32)
    return float(np.nanmean(average_precisions(matches, once).mean(2)))


def main() -> None:
    """Draw worlds and datasets; print shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=60)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=200)
    arguments = parser.parse_args()
    bootstrap.CLASSES = arguments.classes
    for worse in (False, True):
        world = draw(1, WORLD, arguments.classes, worse)
        true = ap(world[0]) - ap(world[1])
        for images in SIZES:
            held = decided = 0
            for seed in range(arguments.datasets):
                progress(f"{images} images, dataset {seed + 1} of {arguments.datasets}")
                settings = BootstrapSettings(resamples=arguments.resamples, level=0.9, seed=seed)
                found = ap_differences(*draw(100 + seed, images, arguments.classes, worse), settings).ap
                held += found.low <= true <= found.high
                decided += found.verdict != "undecided"
            progress("")
            shares = f"held it in {held / arguments.datasets:.0%}, decided {decided / arguments.datasets:.0%}"
            kind = "second worse" if worse else "equally good"
            print(f"{kind}, true difference {true:+.4f}, {images} images: 90 % intervals {shares}")


if __name__ == "__main__":
    main()
