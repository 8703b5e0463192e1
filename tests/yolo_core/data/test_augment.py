"""Augmentation on painted pictures: whatever it does, each box lies on its object's colour."""

from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation, augmented, draw_gains, mixup
from yolo_core.data.cache import CacheSettings, no_cache
from yolo_core.data.coco import DetectionDataset
from yolo_core.data.colour import hsv_to_rgb
from yolo_core.data.geometry import Window
from yolo_core.data.labels import Labels, joined, transformed
from yolo_core.data.letterbox import GREY
from yolo_core.data.loader import SplitImages
from yolo_core.data.mosaic import mosaic, single
from yolo_core.data.paste import copy_paste
from yolo_core.data.scratch import Scratch

SIZE = 128
PLAIN_COLOURS = replace(Augmentation(), hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)


@pytest.fixture(scope="module")
def source(painted_dataset: DetectionDataset) -> SplitImages:
    return SplitImages(painted_dataset.samples("train"), no_cache(CacheSettings(image_size=SIZE)))


def example(source: SplitImages, strength: Augmentation, seed: int) -> tuple[np.ndarray, Labels]:
    """One augmented picture as (size, size, 3) RGB, and its boxes."""
    planes = np.empty((3, SIZE, SIZE), np.uint8)
    parts = augmented(seed % len(source), source, strength, np.random.default_rng(seed), planes)
    return planes.transpose(1, 2, 0), transformed(parts, SIZE)[0]


def components(picture: np.ndarray, channel: int) -> list[np.ndarray]:
    """The xyxy boxes of the patches in which one channel, and no other, is bright."""
    others = np.delete(picture, channel, axis=2)
    mask = ((picture[..., channel] > 127) & (others < 128).all(axis=2)).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    return [np.array([x, y, x + w, y + h], float) for x, y, w, h, _ in stats[1:]]


def at_border(box: np.ndarray) -> bool:
    return bool((box[:2] <= 1).any() or (box[2:] >= SIZE - 1).any())


def lies_in(box: np.ndarray, patch: np.ndarray, tolerance: float) -> bool:
    return bool((box[:2] >= patch[:2] - tolerance).all() and (box[2:] <= patch[2:] + tolerance).all())


def assert_boxes_fit(picture: np.ndarray, labels: Labels, tolerance: float, *, tiny: bool = False) -> int:
    """Every box lies on a patch of its colour and every whole patch has a box; returns how many boxes.

    The edge of a slanted object that the border cuts is lost between pixels, and ``tiny`` objects
    grow together: such a box need only lie in a patch, and of a sliver too little is seen to tell.
    """
    for channel in range(3):
        boxes = labels.boxes[labels.classes == channel]
        patches = components(picture, channel)
        for box in boxes:
            if tiny or at_border(box):
                sliver = (box[2:] - box[:2]).min() < 5
                assert sliver or any(lies_in(box, patch, 2 * tolerance) for patch in patches), (
                    channel,
                    box,
                    patches,
                )
            else:
                assert min(np.abs(patch - box).max() for patch in patches) <= tolerance, (box, patches)
        for patch in patches:
            sides = patch[2:] - patch[:2]
            if sides.min() > 5 and not at_border(patch) and not tiny:
                assert min(np.abs(box - patch).max() for box in boxes) <= tolerance, (channel, patch, boxes)
    return len(labels)


@pytest.mark.parametrize(
    "strength",
    [
        NO_AUGMENTATION,
        PLAIN_COLOURS,
        replace(PLAIN_COLOURS, mosaic=0.0),
        replace(PLAIN_COLOURS, fliplr=1.0, flipud=1.0),
        replace(PLAIN_COLOURS, mosaic=0.5, degrees=40.0, shear=8.0, perspective=0.0004, flipud=0.5),
    ],
    ids=["nothing", "scratch", "no-mosaic", "flips", "all-motions"],
)
def test_boxes_lie_on_their_objects(source: SplitImages, strength: Augmentation) -> None:
    boxes = sum(assert_boxes_fit(*example(source, strength, seed), tolerance=1.7) for seed in range(60))
    assert boxes > 60


def test_boxes_of_tiny_objects_lie_on_them(source: SplitImages) -> None:
    strength = replace(PLAIN_COLOURS, scale=0.9)
    boxes = sum(assert_boxes_fit(*example(source, strength, seed), 1.7, tiny=True) for seed in range(60))
    assert boxes > 60


def test_boxes_without_polygons_fit_too(painted_dataset: DetectionDataset) -> None:
    samples = [
        replace(sample, polygons=(None,) * len(sample.boxes)) for sample in painted_dataset.samples("train")
    ]
    bare = SplitImages(samples, no_cache(CacheSettings(image_size=SIZE)))
    boxes = sum(assert_boxes_fit(*example(bare, PLAIN_COLOURS, seed), tolerance=1.7) for seed in range(40))
    assert boxes > 60


def test_real_boxes_keep_inside_the_picture(coco128: DetectionDataset) -> None:
    real = SplitImages(coco128.samples("train"), no_cache(CacheSettings(image_size=SIZE)))
    strength = Augmentation(degrees=10, shear=5, perspective=0.0005, mixup=0.5, copy_paste=0.5, flipud=0.5)
    for seed in range(40):
        _, labels = example(real, strength, seed)
        assert (labels.boxes >= 0).all() and (labels.boxes <= SIZE).all()
        sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
        assert (sides > 2).all() and (sides.max(axis=1) < 20 * sides.min(axis=1)).all()
        assert ((labels.classes >= 0) & (labels.classes < 80)).all()


def test_nothing_means_the_letterboxed_image(source: SplitImages) -> None:
    picture, labels = example(source, NO_AUGMENTATION, 1)
    width, height = source.size(1)
    top = (SIZE - height) // 2
    assert width == SIZE and (picture[:top] == GREY).all() and (picture[top + height :] == GREY).all()
    np.testing.assert_array_equal(picture[top : top + height], source.pixels(1)[..., ::-1])
    np.testing.assert_allclose(labels.boxes, source.labels(1).moved(offset=(0, top)).boxes)


def test_a_generator_decides_everything(source: SplitImages) -> None:
    strength = Augmentation(degrees=5, mixup=0.5, copy_paste=0.5)
    for seed in range(5):
        one, two = example(source, strength, seed), example(source, strength, seed)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1].boxes, two[1].boxes)
    assert (example(source, strength, 0)[0] != example(source, strength, 24)[0]).any()


def test_a_mosaic_touches_its_centre_with_four_images(source: SplitImages) -> None:
    for seed in range(50):
        canvas = mosaic([3, 4, 5, 6], source, SIZE, np.random.default_rng(seed))
        assert (canvas.width, canvas.height) == (2 * SIZE, 2 * SIZE)
        places = [tile.place for tile in canvas.tiles]
        x, y = places[0].right, places[0].bottom
        assert SIZE // 2 <= x <= 3 * SIZE // 2 and SIZE // 2 <= y <= 3 * SIZE // 2
        assert [(p.right == x, p.left == x) for p in places] == [(True, False), (False, True)] * 2
        assert [(p.bottom == y, p.top == y) for p in places] == [(True, False)] * 2 + [(False, True)] * 2
        labels = canvas.labels(source)
        assert (labels.boxes >= 0).all() and (labels.boxes <= 2 * SIZE).all()


def test_a_window_of_a_canvas_is_that_part_of_the_whole(source: SplitImages) -> None:
    scratch = Scratch()
    canvas = mosaic([0, 1, 2, 3], source, SIZE, np.random.default_rng(2))
    whole = canvas.pixels(source, Window(left=0, top=0, right=2 * SIZE, bottom=2 * SIZE), scratch).copy()
    part = canvas.pixels(source, Window(left=60, top=100, right=300, bottom=200), scratch)
    np.testing.assert_array_equal(part[:, : 2 * SIZE - 60], whole[100:200, 60:])
    assert (part[:, 2 * SIZE - 60 :] == GREY).all()


def test_unseen_tiles_are_not_read(source: SplitImages) -> None:
    class Counting(SplitImages):
        read = 0

        def pixels(self, index: int) -> np.ndarray:
            self.read += 1
            return super().pixels(index)

    counting = Counting(source.samples, source.cache)
    canvas = mosaic([0, 1, 2, 3], counting, SIZE, np.random.default_rng(2))
    corner = canvas.tiles[0].place
    canvas.pixels(counting, Window(left=0, top=0, right=corner.right, bottom=corner.bottom), Scratch())
    assert counting.read == 1


def test_mosaics_draw_partners_from_the_whole_split(source: SplitImages) -> None:
    class Recording(SplitImages):
        seen: set[int] = set()  # noqa: RUF012 - shared on purpose

        def pixels(self, index: int) -> np.ndarray:
            self.seen.add(index)
            return super().pixels(index)

    recording = Recording(source.samples, source.cache)
    for seed in range(60):
        planes = np.empty((3, SIZE, SIZE), np.uint8)
        augmented(0, recording, PLAIN_COLOURS, np.random.default_rng(seed), planes)
    assert recording.seen == set(range(len(source)))


def test_mixup_keeps_both_pictures_visible(source: SplitImages) -> None:
    rng = np.random.default_rng(0)
    strength = replace(PLAIN_COLOURS, scale=0.0, translate=0.0)
    for seed in range(20):
        first = tuple(example(source, strength, seed))
        second = tuple(example(source, strength, seed + 100))
        picture, labels = mixup(first[0], second[0], rng), joined([first[1], second[1]])
        for number, (x1, y1, x2, y2) in zip(labels.classes, labels.boxes.round().astype(int), strict=True):
            inside = picture[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1, number]
            assert not inside.size or inside.min() > 60  # at least a quarter of the colour is there


def test_mixup_follows_its_probability(source: SplitImages) -> None:
    always = replace(PLAIN_COLOURS, mixup=1.0)
    more = [
        len(example(source, always, seed)[1]) - len(example(source, PLAIN_COLOURS, seed)[1])
        for seed in range(20)
    ]
    assert min(more) >= 0 and sum(more) > 40
    no_mosaic = replace(always, mosaic=0.0)
    for seed in range(5):
        assert len(example(source, no_mosaic, seed)[1]) <= 3


def test_copy_paste_mirrors_objects_where_there_is_room(source: SplitImages) -> None:
    pasted = 0
    for index in range(len(source)):
        image, labels = source.pixels(index).copy(), source.labels(index)
        before = image.copy()
        result, more = copy_paste(image, labels, 1.0, np.random.default_rng(index))
        width = image.shape[1]
        np.testing.assert_array_equal(more.boxes[: len(labels)], labels.boxes)
        untouched = np.ones(image.shape[:2], bool)
        for number, box in zip(more.classes[len(labels) :], more.boxes[len(labels) :], strict=True):
            twin = labels.boxes[labels.classes == number][0]
            np.testing.assert_allclose(box, [width - twin[2], twin[1], width - twin[0], twin[3]], rtol=1e-5)
            x1, y1, x2, y2 = box.round().astype(int)
            untouched[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
            assert result[(y1 + y2) // 2, (x1 + x2) // 2].argmax() == 2 - number  # BGR
            pasted += 1
        np.testing.assert_array_equal(result[untouched], before[untouched])
    assert pasted > 10


def test_copy_paste_never_hides_what_is_there() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    square = np.array([[0, 0], [30, 0], [30, 30], [0, 30]], np.float32)
    labels = Labels(
        classes=np.array([0, 1]),
        boxes=np.array([[0, 0, 30, 30], [60, 0, 90, 30]], np.float32),
        counts=np.array([4, 0]),
        points=square,
    )
    # Mirrored, the square would cover two thirds of the second box.
    assert len(copy_paste(image, labels, 1.0, np.random.default_rng(0))[1]) == 2
    assert (
        len(copy_paste(image, labels.selected(np.array([True, False])), 1.0, np.random.default_rng(0))[1])
        == 2
    )
    assert (
        len(copy_paste(image, labels.selected(np.array([True, False])), 0.4, np.random.default_rng(0))[1])
        == 1
    )


def test_pasted_objects_make_way_for_each_other() -> None:
    outline = np.array([[0, 0], [30, 0], [30, 30], [0, 30]], np.float32)
    labels = Labels(
        classes=np.array([0, 1]),
        boxes=np.array([[0, 0, 30, 30], [2, 0, 32, 30]], np.float32),
        counts=np.array([4, 4]),
        points=np.concatenate([outline, outline + np.array((2, 0), np.float32)]),
    )
    _, more = copy_paste(np.zeros((50, 100, 3), np.uint8), labels, 1.0, np.random.default_rng(0))
    assert len(more) == 3  # the second would cover the first


def test_copied_objects_fit_after_the_motion(source: SplitImages) -> None:
    strength = replace(PLAIN_COLOURS, copy_paste=1.0)
    more = sum(
        len(example(source, strength, seed)[1]) - len(example(source, PLAIN_COLOURS, seed)[1])
        for seed in range(20)
    )
    assert more > 20


@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0), (1.01, 0.6, 1.3), (0.99, 1.6, 0.7)])
def test_colour_gains_do_what_they_say(gains: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    planes = np.empty((3, 20, 30), np.uint8)
    hsv_to_rgb(image, np.array(gains), planes)
    if gains == (1.0, 1.0, 1.0):
        np.testing.assert_array_equal(planes, image[..., ::-1].transpose(2, 0, 1))
        return
    old = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(np.float32)
    wanted = np.rint(old * np.array(gains, np.float32))
    wanted[..., 0] %= 180
    expected = cv2.cvtColor(np.clip(wanted, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(planes, expected.transpose(2, 0, 1))


def test_colour_gains_stay_in_their_ranges() -> None:
    gains = np.array([draw_gains(Augmentation(), np.random.default_rng(seed)) for seed in range(500)])
    np.testing.assert_allclose(gains.min(axis=0), [0.985, 0.3, 0.6], atol=0.02)
    np.testing.assert_allclose(gains.max(axis=0), [1.015, 1.7, 1.4], atol=0.02)
    assert (draw_gains(NO_AUGMENTATION, np.random.default_rng(0)) == 1).all()


def test_hue_goes_round() -> None:
    red = np.full((2, 2, 3), (0, 0, 255), np.uint8)  # hue 0
    almost_red = cv2.cvtColor(np.full((2, 2, 3), (179, 255, 255), np.uint8), cv2.COLOR_HSV2BGR)
    planes = np.empty((3, 2, 2), np.uint8)
    hsv_to_rgb(almost_red, np.array((1.0056, 1.0, 1.0)), planes)  # hue 180.0
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), red[..., ::-1])


def test_a_picture_without_objects(source: SplitImages) -> None:
    empty = next(index for index in range(len(source)) if not len(source.labels(index)))
    planes = np.empty((3, SIZE, SIZE), np.uint8)
    strength = replace(Augmentation(), mosaic=0.0, copy_paste=1.0)
    parts = augmented(empty, source, strength, np.random.default_rng(0), planes)
    assert len(transformed(parts, SIZE)[0]) == 0
    assert len(single(empty, source, SIZE).tiles) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mosaic", 1.1),
        ("fliplr", -0.1),
        ("scale", 1.0),
        ("degrees", 181.0),
        ("perspective", 0.1),
        ("hsv_h", float("nan")),
    ],
)
def test_strengths_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Augmentation(**{name: value})


def test_strengths_carry_the_names_of_the_tables() -> None:
    assert [item.name for item in fields(Augmentation)] == [
        "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective",
        "flipud", "fliplr", "mosaic", "mixup", "copy_paste",
    ]  # fmt: skip
