"""Evaluation batches: shapes, boxes that come back, and sharing over ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.eval_loader import EvalLoader, EvalLoaderSettings
from yolo_core.data.letterbox import GREY, rectangular_shape, to_original
from yolo_core.errors import DataError

SETTINGS = EvalLoaderSettings(image_size=64, batch_size=4)


@pytest.mark.parametrize("rectangular", [True, False])
@pytest.mark.parametrize("size", [64, 192])
def test_every_image_comes_once_and_boxes_come_back(
    samples: list[Sample], rectangular: bool, size: int
) -> None:
    loader = EvalLoader(samples, replace(SETTINGS, rectangular=rectangular, image_size=size))
    seen = []
    for batch in loader:
        height, width = batch.images.shape[2:]
        assert batch.images.dtype == torch.uint8 and height % 32 == 0 and width % 32 == 0
        if not rectangular:
            assert (height, width) == (size, size)
        assert batch.preprocess_seconds > 0 and batch.decode_seconds > 0
        rows = zip(batch.images, batch.samples, batch.ratios, batch.pads, strict=True)
        for image, sample, ratio, pad in rows:
            seen.append(sample.image_id)
            for number, box in zip(sample.classes, sample.boxes, strict=True):
                bright = (image[int(number)] > 127) & (
                    image.float().sum(0) < 1.6 * image[int(number)].float()
                )
                ys, xs = bright.nonzero(as_tuple=True)
                found = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
                back = to_original(found, ratio, pad, (sample.height, sample.width))
                np.testing.assert_allclose(back[0], box, atol=1.1 / ratio[0] + 0.1)
    assert sorted(seen) == [sample.image_id for sample in samples]
    if not rectangular:
        assert seen == [sample.image_id for sample in samples]


def test_rectangles_are_small_and_sorted(samples: list[Sample]) -> None:
    loader = EvalLoader(samples, SETTINGS)
    shapes = [tuple(batch.images.shape[2:]) for batch in loader]
    assert shapes[0] == rectangular_shape([(64, 27)], 32) == (64, 96)
    assert shapes[-1] == (96, 96)  # holds the empty square picture
    aspects = [sample.height / sample.width for batch in loader for sample in batch.samples]
    assert aspects == sorted(aspects)


def test_placement_is_centred_on_grey(samples: list[Sample]) -> None:
    batch = next(iter(EvalLoader(samples, replace(SETTINGS, batch_size=1))))
    (left, top), image = batch.pads[0], batch.images[0]
    assert (left, top) == (16, 18)  # a 150x64 picture becomes 64x27 in 96x64
    assert (image[:, :top] == GREY).all() and (image[:, :, :left] == GREY).all()
    assert (image[:, top + 27 :] == GREY).all() and (image[:, :, left + 64 :] == GREY).all()


def test_the_longest_side_becomes_the_size_also_upwards(samples: list[Sample]) -> None:
    for batch in EvalLoader(samples, replace(SETTINGS, image_size=224)):
        for ratio, sample in zip(batch.ratios, batch.samples, strict=True):
            assert round(ratio[0] * sample.width) == 224 or round(ratio[1] * sample.height) == 224


def test_a_smooth_cache_and_threads_change_nothing(samples: list[Sample]) -> None:
    cache = build_cache(samples, CacheSettings(image_size=64, smooth=True, memory_bytes=10**8))
    pairs = zip(
        EvalLoader(samples, SETTINGS), EvalLoader(samples, replace(SETTINGS, threads=3), cache), strict=True
    )
    for plain, cached in pairs:
        assert torch.equal(plain.images, cached.images)
        assert plain.samples == cached.samples and plain.ratios == cached.ratios and plain.pads == cached.pads


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_ranks_see_each_image_once(samples: list[Sample], world: int) -> None:
    loaders = [EvalLoader(samples, replace(SETTINGS, rank=rank, world_size=world)) for rank in range(world)]
    seen = [sample.image_id for loader in loaders for batch in loader for sample in batch.samples]
    assert sorted(seen) == [sample.image_id for sample in samples]
    assert max(map(len, loaders)) - min(map(len, loaders)) <= 1


def test_it_can_be_iterated_again(samples: list[Sample]) -> None:
    loader = EvalLoader(samples, SETTINGS)
    one, two = ([batch.images.sum().item() for batch in loader] for _ in range(2))
    assert one == two and len(one) == len(loader) == 6


def test_wrong_use_is_named(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        EvalLoader([], SETTINGS)
    cache = build_cache(samples, CacheSettings(image_size=64, memory_bytes=10**8))
    with pytest.raises(ValueError, match="smooth images of 64 px"):
        EvalLoader(samples, SETTINGS, cache)
    with pytest.raises(ValueError, match="multiple of the stride"):
        EvalLoaderSettings(image_size=100, rectangular=False)
    for field in ("batch_size", "stride", "threads"):
        with pytest.raises(ValueError, match=field):
            replace(SETTINGS, **{field: 0})
    with pytest.raises(ValueError, match="rank"):
        replace(SETTINGS, rank=-1)


def test_coco128_shapes(coco128: DetectionDataset) -> None:
    loader = EvalLoader(coco128.samples("train")[:16], EvalLoaderSettings(image_size=640))
    for batch in loader:
        sample = batch.samples[0]
        assert max(batch.images.shape[2:]) == 672 and len(batch.samples) == 1
        assert max(sample.width * batch.ratios[0][0], sample.height * batch.ratios[0][1]) == pytest.approx(
            640
        )
