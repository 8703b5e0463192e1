"""The image cache: the same pixels as decoding, within its budgets, keyed by content."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_core.data.cache import CacheSettings, build_cache, decode_resized, no_cache, spare_memory
from yolo_core.data.coco import DetectionDataset, Sample
from yolo_core.errors import DataError

ROOM = 10**8


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_cached_pixels_are_the_decoded_ones(
    samples: list[Sample], tmp_path: Path, smooth: bool, threads: int
) -> None:
    common = CacheSettings(image_size=48, smooth=smooth, threads=threads)
    memory = build_cache(samples, replace(common, memory_bytes=ROOM))
    disk = build_cache(samples, replace(common, disk_bytes=ROOM, folder=tmp_path / "cache"))
    none = build_cache(samples, common)
    assert (memory.kind, disk.kind, none.kind) == ("memory", "disk", "none")
    for sample in samples:
        expected = decode_resized(sample, 48, smooth=smooth)
        assert max(expected.shape[:2]) == 48
        for cache in (memory, disk, none):
            np.testing.assert_array_equal(cache.get(sample), expected)


def test_linear_and_smooth_differ(samples: list[Sample]) -> None:
    linear = decode_resized(samples[1], 40, smooth=False)
    image = cv2.imread(str(samples[1].path))
    np.testing.assert_array_equal(linear, cv2.resize(image, (40, 27), interpolation=cv2.INTER_LINEAR))
    smooth = decode_resized(samples[1], 40, smooth=True)
    np.testing.assert_array_equal(smooth, cv2.resize(image, (40, 27), interpolation=cv2.INTER_AREA))
    assert (linear != smooth).any()


def test_budgets_decide_where(samples: list[Sample], tmp_path: Path) -> None:
    settings = CacheSettings(image_size=48, memory_bytes=ROOM)
    size = build_cache(samples, settings).bytes
    assert size == sum(decode_resized(sample, 48, smooth=False).size for sample in samples)
    assert build_cache(samples, replace(settings, memory_bytes=size)).kind == "memory"
    small = replace(settings, memory_bytes=size - 1, folder=tmp_path)
    assert build_cache(samples, small).kind == "none"
    assert build_cache(samples, replace(small, disk_bytes=size - 1)).kind == "none"
    assert list(tmp_path.iterdir()) == []
    assert build_cache(samples, replace(small, disk_bytes=size)).kind == "disk"
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [size]
    other = replace(small, disk_bytes=2 * size - 1, smooth=True)
    assert build_cache(samples, other).kind == "none"  # the folder's budget counts what is there
    assert build_cache(samples, replace(other, disk_bytes=2 * size)).kind == "disk"


def test_a_file_is_used_again(samples: list[Sample], tmp_path: Path) -> None:
    settings = CacheSettings(image_size=48, disk_bytes=ROOM, folder=tmp_path)
    first: list[tuple[int, int]] = []
    build_cache(samples, settings, lambda done, all_: first.append((done, all_)))
    assert first == [(number, 24) for number in range(1, 25)]
    again: list[tuple[int, int]] = []
    build_cache(samples, settings, lambda done, all_: again.append((done, all_)))
    assert again == []
    build_cache(samples, replace(settings, image_size=40), lambda done, all_: again.append((done, all_)))
    build_cache(samples[1:], settings, lambda done, all_: again.append((done, all_)))
    assert len(again) == 24 + 23
    assert len(list(tmp_path.iterdir())) == 3


def test_half_a_file_is_not_trusted(samples: list[Sample], tmp_path: Path) -> None:
    settings = CacheSettings(image_size=48, disk_bytes=ROOM, folder=tmp_path)
    build_cache(samples, settings)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-5])
    cache = build_cache(samples, settings)
    np.testing.assert_array_equal(cache.get(samples[-1]), decode_resized(samples[-1], 48, smooth=False))


def test_changed_content_is_not_taken_from_the_cache(small_folder: DetectionDataset) -> None:
    old = small_folder.samples("train")
    cache = build_cache(old, CacheSettings(image_size=48, memory_bytes=ROOM))
    changed = replace(old[0], path=old[1].path, sha256=old[1].sha256)
    np.testing.assert_array_equal(cache.get(changed), cache.get(old[1]))
    unknown = replace(old[0], path=old[2].path, sha256="0" * 64)
    np.testing.assert_array_equal(cache.get(unknown), decode_resized(old[2], 48, smooth=False))


def test_twins_share_their_pixels_and_unknowns_are_decoded(samples: list[Sample]) -> None:
    settings = CacheSettings(image_size=48, memory_bytes=ROOM)
    one = build_cache(samples[:1], settings)
    assert build_cache([samples[0]] * 5, settings).bytes == one.bytes
    unknown = replace(samples[0], sha256="")
    cache = build_cache([unknown], settings)
    assert cache.bytes == 0
    np.testing.assert_array_equal(cache.get(unknown), one.get(samples[0]))


def test_a_broken_image_is_named_and_leaves_nothing(small_folder: DetectionDataset, tmp_path: Path) -> None:
    samples = small_folder.samples("train")
    samples[1].path.write_bytes(b"broken")
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"0001\.png does not decode"):
        build_cache(samples, CacheSettings(image_size=48, disk_bytes=ROOM, folder=folder))
    assert list(folder.iterdir()) == []
    shutil.copy(samples[0].path, samples[1].path)
    wrong = replace(samples[1], width=97)
    with pytest.raises(DataError, match="is 96x64, annotated as 97x64"):
        no_cache(CacheSettings(image_size=48)).get(wrong)


def test_spare_memory_is_plausible() -> None:
    assert 0 <= spare_memory() < 2**50
