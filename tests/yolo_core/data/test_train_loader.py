"""Training batches: whole epochs, the same whatever makes them, resumable at any batch."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation
from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.data.loader import TrainBatch, TrainLoader, TrainLoaderSettings
from yolo_core.errors import DataError

SETTINGS = TrainLoaderSettings(
    image_size=64, batch_size=5, augmentation=Augmentation(mixup=0.3, copy_paste=0.3, degrees=5)
)


def assert_same(one: TrainBatch, two: TrainBatch) -> None:
    assert one.paths == two.paths
    assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)


def test_batches_have_the_promised_form(samples: list[Sample]) -> None:
    loader = TrainLoader(samples, SETTINGS)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 5, 4]
    for batch in batches:
        assert batch.images.dtype == torch.uint8 and batch.images.is_contiguous()
        assert batch.images.shape[1:] == (3, 64, 64)
        targets = batch.targets
        assert targets.dtype == torch.float32 and targets.shape[1] == 6
        assert (targets[:, 0].diff() >= 0).all() and set(targets[:, 0].tolist()) <= set(
            range(len(batch.images))
        )
        assert set(targets[:, 1].tolist()) <= {0.0, 1.0, 2.0}
        low, high = targets[:, 2:4] - targets[:, 4:] / 2, targets[:, 2:4] + targets[:, 4:] / 2
        assert (low >= -1e-6).all() and (high <= 1 + 1e-6).all() and (targets[:, 4:] > 0).all()
        assert len(batch.paths) == len(batch.images)


def test_images_are_rgb_and_targets_their_boxes(samples: list[Sample]) -> None:
    settings = replace(SETTINGS, augmentation=NO_AUGMENTATION)
    for batch in TrainLoader(samples, settings):
        for slot, number, x, y, w, _ in batch.targets.tolist():
            image = batch.images[int(slot)]
            assert image[:, int(y * 64), int(x * 64)].argmax() == int(number)  # red, green, blue
            left, right = round((x - w / 2) * 64), round((x + w / 2) * 64)
            bright = (image[int(number), int(y * 64)] > 127).nonzero().ravel()
            bright = bright[(bright >= left - 2) & (bright <= right + 2)]
            assert abs(int(bright.min()) - left) <= 1 and abs(int(bright.max()) + 1 - right) <= 1


def test_an_epoch_starts_once_from_every_image_in_its_own_order(samples: list[Sample]) -> None:
    loader = TrainLoader(samples, SETTINGS)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append([path for batch in loader for path in batch.paths])
        assert sorted(orders[-1]) == sorted(str(sample.path) for sample in samples)
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("cached", [False, True])
def test_threads_and_cache_change_nothing(samples: list[Sample], cached: bool) -> None:
    cache = build_cache(samples, CacheSettings(image_size=64, memory_bytes=10**8)) if cached else None
    loaders = [
        TrainLoader(samples, SETTINGS),
        TrainLoader(samples, replace(SETTINGS, threads=4), cache),
    ]
    for epoch in (0, 7):
        for loader in loaders:
            loader.set_epoch(epoch)
        for one, two in zip(*loaders, strict=True):
            assert_same(one, two)


def test_seed_and_epoch_change_the_batches(samples: list[Sample]) -> None:
    loader, other = TrainLoader(samples, SETTINGS), TrainLoader(samples, replace(SETTINGS, seed=1))
    first, seeded = next(iter(loader)), next(iter(other))
    loader.set_epoch(1)
    assert not torch.equal(first.images, next(iter(loader)).images)
    assert not torch.equal(first.images, seeded.images)
    loader.set_epoch(0)
    assert_same(first, next(iter(loader)))


def test_an_epoch_is_taken_up_again_at_any_batch(samples: list[Sample]) -> None:
    loader = TrainLoader(samples, SETTINGS)
    loader.set_epoch(3)
    whole = list(loader)
    for start in range(len(loader) + 1):
        loader.set_epoch(3, start_batch=start)
        rest = list(loader)
        assert len(rest) == len(whole) - start and len(loader) == len(whole)
        for one, two in zip(rest, whole[start:], strict=True):
            assert_same(one, two)
    with pytest.raises(ValueError, match="start_batch"):
        loader.set_epoch(3, start_batch=6)


@given(st.integers(1, 24), st.integers(1, 12), st.integers(1, 6), st.integers(0, 3))
def test_ranks_share_each_batch_without_repeats_or_gaps(
    samples: list[Sample], count: int, batch: int, world: int, epoch: int
) -> None:
    """Whatever the numbers: the batches are those of one process, and ranks take them in order."""
    assume(world <= min(batch, count))
    plain = replace(SETTINGS, batch_size=batch, augmentation=NO_AUGMENTATION, image_size=8)

    def batches(**ranks: int) -> list[TrainBatch]:
        loader = TrainLoader(samples[:count], replace(plain, **ranks))
        loader.set_epoch(epoch)
        return list(loader)

    alone = batches()
    shared = [batches(rank=rank, world_size=world) for rank in range(world)]
    for whole, *parts in zip(alone, *shared, strict=True):
        sizes = [len(part.images) for part in parts]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1 <= sizes[0]
        assert sum((part.paths for part in parts), ()) == whole.paths
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert {part.whole for part in parts} == {whole.whole} == {sum(sizes)}
    paths = [path for whole in alone for path in whole.paths]
    assert sorted(paths) == sorted(str(sample.path) for sample in samples[:count])


def test_ranks_together_make_the_batches_of_one(samples: list[Sample]) -> None:
    """Augmented, too: an example's random numbers are its own, whichever rank makes it, and no other's."""
    settings = replace(SETTINGS, batch_size=11)  # leaves two images for three ranks at the end
    ranks = [TrainLoader(samples, replace(settings, rank=rank, world_size=3)) for rank in range(3)]
    for whole, *parts in zip(TrainLoader(samples, settings), *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.targets[:, 1:], torch.cat([part.targets[:, 1:] for part in parts]))
        assert len({picture.tobytes() for picture in whole.images.numpy()}) == len(whole.images)
    assert [len(part.images) for part in parts] == [1, 1, 0]


def test_mosaic_can_be_closed(samples: list[Sample]) -> None:
    settings = replace(SETTINGS, augmentation=replace(NO_AUGMENTATION, mosaic=1.0))
    loader = TrainLoader(samples, settings)
    loader.set_epoch(0, mosaic=0.0)
    without = next(iter(loader))
    plain = TrainLoader(samples, replace(SETTINGS, augmentation=NO_AUGMENTATION))
    assert_same(without, next(iter(plain)))
    loader.set_epoch(0)
    assert not torch.equal(next(iter(loader)).images, without.images)


def test_heavier_images_come_more_often(samples: list[Sample]) -> None:
    loader = TrainLoader(samples, replace(SETTINGS, image_size=8))
    weights = np.zeros(len(samples))
    weights[[2, 5]] = 1, 3
    loader.set_epoch(0, image_weights=weights)
    paths = [path for batch in loader for path in batch.paths]
    assert len(paths) == len(samples)
    counts = [paths.count(str(samples[index].path)) for index in (2, 5)]
    assert sum(counts) == len(paths) and 0 < counts[0] < counts[1]
    assert len(set(paths)) == 2
    first, second = (next(iter(loader)) for _ in range(2))
    assert_same(first, second)


def test_images_without_boxes_train_too(samples: list[Sample]) -> None:
    empty = [sample for sample in samples if not len(sample.boxes)]
    batches = list(TrainLoader(empty * 3, replace(SETTINGS, batch_size=3)))
    assert len(batches) == 1 and batches[0].targets.shape == (0, 6)


def test_an_error_in_a_thread_reaches_the_consumer(small_folder: DetectionDataset) -> None:
    samples = small_folder.samples("train")
    samples[2].path.write_bytes(b"broken")
    settings = replace(SETTINGS, batch_size=1, threads=3, augmentation=NO_AUGMENTATION)
    with pytest.raises(DataError, match=r"0002\.png does not decode"):
        list(TrainLoader(samples, settings))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_a_break_leaves_no_thread(samples: list[Sample]) -> None:
    for _ in TrainLoader(samples, replace(SETTINGS, threads=3)):
        break
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_two_iterations_at_once_do_not_mix(samples: list[Sample]) -> None:
    loader = TrainLoader(samples, replace(SETTINGS, threads=2))
    expected = list(loader)
    one = iter(loader)
    first = next(one)
    loader.set_epoch(9)
    other = iter(loader)
    next(other)
    assert_same(first, expected[0])
    for batch, wanted in zip(one, expected[1:], strict=True):
        next(other, None)
        assert_same(batch, wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"batch_size": 0},
        {"threads": 0},
        {"seed": -1},
        {"rank": 1},
        {"world_size": 6, "batch_size": 5},
    ],
)
def test_impossible_settings_are_named(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)) if len(change) == 1 else "batch_size"):
        replace(SETTINGS, **change)


def test_too_few_images_and_wrong_caches_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match="1 training images cannot feed 2 workers"):
        TrainLoader(samples[:1], replace(SETTINGS, world_size=2))
    with pytest.raises(DataError, match="0 training images"):
        TrainLoader([], SETTINGS)
    cache = build_cache(samples, CacheSettings(image_size=32, memory_bytes=10**8))
    with pytest.raises(ValueError, match="32 px, not 64"):
        TrainLoader(samples, SETTINGS, cache)


def test_real_images_load(coco128: DetectionDataset) -> None:
    loader = TrainLoader(
        coco128.samples("train")[:32], TrainLoaderSettings(image_size=96, batch_size=16, threads=2)
    )
    batches = list(loader)
    assert len(batches) == 2 and sum(len(batch.targets) for batch in batches) > 50
