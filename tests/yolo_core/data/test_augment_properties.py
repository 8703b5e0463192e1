"""Properties of augmentation, whatever is drawn: paint outlined objects, augment, find them by colour.

Each painted image has one many-cornered object per channel, so a box from the polygon differs from one from
the box's corners, and what is found of a colour tells which class it must be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation, augmented
from yolo_core.data.labels import Labels, Part, joined, transformed
from yolo_core.data.letterbox import GREY

SIZE = 160
BRIGHT = 255
FEW, MANY = settings(max_examples=40), settings(max_examples=80)
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True, eq=False)
class Painted:
    """Pictures of three polygons, red, green and blue (classes 0, 1, 2), each in a third of the width."""

    images: tuple[np.ndarray, ...]
    truth: tuple[Labels, ...]

    def __len__(self) -> int:
        return len(self.images)

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[1], self.images[index].shape[0]

    def pixels(self, index: int) -> np.ndarray:
        return self.images[index]

    def labels(self, index: int) -> Labels:
        return self.truth[index]


def painted(seed: int, *, outlined: bool = True) -> Painted:
    rng = np.random.default_rng(seed)
    pictures = [_paint(rng, outlined) for _ in range(5)]
    return Painted(*map(tuple, zip(*pictures, strict=True)))


def _paint(rng: np.random.Generator, outlined: bool) -> tuple[np.ndarray, Labels]:
    width, height = ((SIZE, int(rng.integers(80, SIZE))), (SIZE, SIZE))[int(rng.integers(2))]
    image = np.zeros((height, width, 3), np.uint8)
    outlines = []
    for channel in (2, 1, 0):
        third = width // 3
        reach = int(rng.integers(10, third // 2 - 2))
        middle = ((2 - channel) * third + third // 2, int(rng.integers(reach + 2, height - reach - 2)))
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(3, 8)), endpoint=False) + rng.uniform(0, 2)
        outline = np.rint(middle + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(
            np.int32
        )
        plane = np.ascontiguousarray(image[..., channel])
        cv2.fillPoly(plane, [outline], BRIGHT)
        image[..., channel] = plane
        outlines.append(outline.astype(np.float32) + 0.5)  # OpenCV's corners are pixel centres
    # A filled polygon takes half a pixel more than its corners' centres on each side.
    boxes = [np.concatenate([outline.min(0) - 0.5, outline.max(0) + 0.5]) for outline in outlines]
    counts = [len(outline) if outlined else 0 for outline in outlines]
    points = np.concatenate(outlines) if outlined else np.zeros((0, 2), np.float32)
    return image, Labels(
        classes=np.arange(3), boxes=np.array(boxes, np.float32), counts=np.array(counts), points=points
    )


def example(source: Painted, strength: Augmentation, seed: int) -> tuple[np.ndarray, Labels]:
    """(SIZE, SIZE, 3) RGB and its boxes."""
    planes = np.empty((3, SIZE, SIZE), np.uint8)
    parts = augmented(seed % len(source), source, strength, np.random.default_rng(seed), planes)
    return planes.transpose(1, 2, 0), transformed(parts, SIZE)[0]


def patches(picture: np.ndarray, channel: int, least: int = 127) -> list[np.ndarray]:
    """The xyxy boxes of the patches of one class's colour."""
    signed = picture.astype(int)
    mask = (signed[..., channel] - np.delete(signed, channel, axis=2).max(axis=2) > least).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return [np.array([x, y, x + w, y + h], float) for x, y, w, h, _ in stats[1:]]


def assert_boxes_are_those_of_the_patches(picture: np.ndarray, labels: Labels, tolerance: float) -> None:
    """Each box is the box round a patch of its colour, and each patch that is not tiny has a box.

    What the picture's edge leaves of an object may be a sliver that the rules drop or the pixels do not
    show. Where the canvas ends, the box is cut, not the outline, so it may be larger than the patch.
    """
    for channel in range(3):
        boxes = labels.boxes[labels.classes == channel]
        found = patches(picture, channel)
        for box in boxes:
            if min(box[2:] - box[:2]) >= 5:
                assert any(fits(box, patch, picture, tolerance) for patch in found), (box, found)
        for patch in found:
            if min(patch[2:] - patch[:2]) > (16 if at_edge(patch) else 5):
                assert any(fits(box, patch, picture, tolerance) for box in boxes), (patch, boxes)


def fits(box: np.ndarray, patch: np.ndarray, picture: np.ndarray, tolerance: float) -> bool:
    """Whether a box is that round a patch; next to grey, whether it holds it and shares an edge."""
    off = np.abs(box - patch)
    x1, y1 = (box[:2] - 2).clip(0).astype(int)
    x2, y2 = (box[2:] + 2).astype(int)
    beside = picture[y1:y2, x1:x2].reshape(-1, 3)
    if off.max() > tolerance and (beside == GREY).all(axis=1).any():
        slack = max(*(box[:2] - patch[:2]), *(patch[2:] - box[2:]))
        return bool(slack <= tolerance and off.min() <= tolerance)
    return bool(off.max() <= tolerance)


def at_edge(box: np.ndarray) -> bool:
    return bool((box[:2] < 2).any() or (box[2:] > SIZE - 2).any())


SHARE = st.sampled_from((0.0, 0.3, 1.0))
MOTIONS = st.builds(
    replace,
    st.just(NO_AUGMENTATION),
    mosaic=SHARE,
    fliplr=SHARE,
    flipud=SHARE,
    translate=st.floats(0, 0.3),
    scale=st.floats(0, 0.5),
)
WARPS = st.builds(
    replace,
    MOTIONS,
    degrees=st.floats(0, 180),
    shear=st.floats(0, 12),
    perspective=st.floats(0, 0.0006),
)


@MANY
@given(SEEDS, MOTIONS)
def test_mosaic_scale_shift_and_flips_keep_boxes_on_objects(seed: int, strength: Augmentation) -> None:
    assert_boxes_are_those_of_the_patches(*example(painted(seed), strength, seed), tolerance=2)


@MANY
@given(SEEDS, WARPS)
def test_turns_shear_and_perspective_keep_boxes_on_objects(seed: int, strength: Augmentation) -> None:
    assert_boxes_are_those_of_the_patches(*example(painted(seed), strength, seed), tolerance=2.5)


@FEW
@given(SEEDS, WARPS)
def test_boxes_without_outlines_hold_their_objects(seed: int, strength: Augmentation) -> None:
    picture, labels = example(painted(seed, outlined=False), strength, seed)
    for channel in range(3):
        boxes = labels.boxes[labels.classes == channel]
        for patch in patches(picture, channel):
            if min(patch[2:] - patch[:2]) > (20 if at_edge(patch) else 5):
                slack = [max(*(box[:2] - patch[:2]), *(patch[2:] - box[2:])) for box in boxes]
                assert slack and min(slack) <= 2, (patch, boxes)


@FEW
@given(SEEDS, MOTIONS)
def test_mixup_shows_both_pictures_with_their_boxes(seed: int, strength: Augmentation) -> None:
    picture, labels = example(painted(seed), replace(strength, mosaic=1.0, mixup=1.0), seed)
    signed = picture.astype(int)
    for channel in range(3):
        # At a ratio near one half a colour is lifted by about 128, whatever the other picture has there.
        seen = signed[..., channel] > 114 + 30
        covered = np.zeros((SIZE, SIZE), bool)
        for x1, y1, x2, y2 in labels.boxes[labels.classes == channel].round().astype(int):
            covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            if min(x2 - x1, y2 - y1) >= 5:
                assert signed[y1:y2, x1:x2, channel].max() > 50, (channel, x1, y1, x2, y2)
        _, _, stats, _ = cv2.connectedComponentsWithStats((seen & ~covered).astype(np.uint8))
        for x, y, w, h, _ in stats[1:]:
            patch = np.array([x, y, x + w, y + h])
            assert min(w, h) <= (16 if at_edge(patch) else 5), (channel, patch)


@FEW
@given(SEEDS, MOTIONS, st.floats(0.1, 1.0))
def test_pasted_objects_have_boxes_too(seed: int, strength: Augmentation, share: float) -> None:
    source = painted(seed)
    picture, labels = example(source, replace(strength, copy_paste=share), seed)
    # Pasted objects may touch or cut others, so patches are compared as areas and not one by one.
    for channel in range(3):
        covered = np.zeros((SIZE, SIZE), bool)
        for x1, y1, x2, y2 in labels.boxes[labels.classes == channel].round().astype(int):
            covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            # Of an object that the edge cuts, the rest may be just what a pasted one covers.
            if min(x2 - x1, y2 - y1) >= 5 and not at_edge(np.array([x1, y1, x2, y2])):
                assert picture[y1:y2, x1:x2, channel].max() > 127, (channel, x1, y1, x2, y2)
        bright = picture[..., channel].astype(int) - np.delete(picture, channel, axis=2).max(axis=2) > 127
        _, _, stats, _ = cv2.connectedComponentsWithStats((bright & ~covered).astype(np.uint8))
        for x, y, w, h, _ in stats[1:]:
            assert min(w, h) <= (16 if at_edge(np.array([x, y, x + w, y + h])) else 5), (channel, x, y, w, h)


def test_pasting_happens() -> None:
    def boxes(share: float) -> int:
        strength = replace(NO_AUGMENTATION, mosaic=1.0, copy_paste=share)
        return sum(len(example(painted(seed), strength, seed)[1]) for seed in range(20))

    assert boxes(1.0) > boxes(0.5) > boxes(0.0) > 0


@FEW
@given(SEEDS, MOTIONS, st.booleans(), st.booleans())
def test_a_flip_is_the_mirror_image(seed: int, strength: Augmentation, left: bool, top: bool) -> None:
    source = painted(seed)
    straight, labels = example(source, replace(strength, fliplr=0.0, flipud=0.0), seed)
    flipped, mirrored = example(source, replace(strength, fliplr=float(left), flipud=float(top)), seed)
    np.testing.assert_array_equal(flipped, straight[:: -1 if top else 1, :: -1 if left else 1])
    expected = labels.boxes.copy()
    for axis, turned in enumerate((left, top)):
        if turned:
            expected[:, axis::2] = SIZE - expected[:, [axis + 2, axis]]
    np.testing.assert_allclose(mirrored.boxes, expected, atol=1e-3)
    np.testing.assert_array_equal(mirrored.classes, labels.classes)


@FEW
@given(SEEDS, st.floats(0, 0.1), st.floats(0, 0.9), st.floats(0, 0.9))
def test_colour_changes_neither_boxes_nor_which_colour_is_strongest(
    seed: int, hue: float, saturation: float, value: float
) -> None:
    source, plain = painted(seed), replace(NO_AUGMENTATION, mosaic=1.0, scale=0.3)
    before, labels = example(source, plain, seed)
    changed = replace(plain, hsv_h=hue, hsv_s=saturation, hsv_v=value)
    after, same = example(source, changed, seed)
    np.testing.assert_array_equal(labels.boxes, same.boxes)
    pure = (before.max(axis=2) == BRIGHT) & (np.sort(before, axis=2)[..., 1] == 0)
    np.testing.assert_array_equal(before[pure].argmax(axis=1), after[pure].argmax(axis=1))
    grey = (before == GREY).all(axis=2)
    assert len(np.unique(after[grey])) <= 1  # grey stays one grey
    assert (after[(before == 0).all(axis=2)] == 0).all()  # and black stays black


@settings(max_examples=150)
@given(SEEDS, st.integers(0, 12), st.booleans())
def test_boxes_are_cut_and_dropped_by_the_rules(seed: int, count: int, outlined: bool) -> None:
    """Box by box, in words of the specification: w, h > 2 px, area > 0.1 (polygons 0.01), aspect < 20."""
    rng = np.random.default_rng(seed)
    start, side = rng.uniform(-20, 200, (count, 2)), np.exp(rng.uniform(0, 5, (count, 2)))  # 1 to 148 px
    boxes = np.concatenate([start, start + side], axis=1).astype(np.float32)
    outlines = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    labels = Labels(
        classes=np.arange(count),
        boxes=boxes,
        counts=np.full(count, 4 * outlined),
        points=outlines if outlined else np.zeros((0, 2), np.float32),
    )
    scale, shift = rng.uniform(0.05, 3), rng.uniform(-150, 150, 2)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    part = Part(labels=labels, matrix=matrix, scale=scale, low=(0, 0), high=(200, 200))
    result, owner = transformed([Part(labels=joined([]), matrix=matrix, scale=1.0), part], SIZE)
    kept = {}
    for number, box in enumerate(boxes.astype(float)):
        x1, y1, x2, y2 = box.clip(0, 200)
        before = (x2 - x1) * (y2 - y1) * scale**2
        x1, x2 = ((edge * scale + shift[0]).clip(0, SIZE) for edge in (x1, x2))
        y1, y2 = ((edge * scale + shift[1]).clip(0, SIZE) for edge in (y1, y2))
        width, height = x2 - x1, y2 - y1
        enough = width > 2 and height > 2 and width * height > (0.01 if outlined else 0.1) * before
        if enough and max(width / height, height / width) < 20:
            kept[number] = (x1, y1, x2, y2)
    assert result.classes.tolist() == list(kept)
    assert owner.tolist() == [1] * len(kept)
    if kept:
        np.testing.assert_allclose(result.boxes, list(kept.values()), atol=1e-3)


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_same_seed_gives_the_same_example(name: str) -> None:
    strength = Augmentation(degrees=20, shear=5, mixup=0.5, copy_paste=0.5, flipud=0.5)
    for seed in range(10):
        source = painted(seed if name == "first" else seed + 100)
        one, two = example(source, strength, seed), example(source, strength, seed)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1].boxes, two[1].boxes)
