"""Perceptual hashes: what looks alike is near, what does not is far, and no near pair is missed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from yolo_core.data.images import read_image
from yolo_core.data.phash import near_duplicates, near_pairs, perceptual_hash
from yolo_core.data.runs import equal_pairs

Image = NDArray[np.uint8]
SIGNED = st.integers(-(2**63), 2**63 - 1)


def distance(first: int, second: int) -> int:
    return ((first ^ second) & (2**64 - 1)).bit_count()


def picture(seed: int, height: int = 240, width: int = 320) -> Image:
    """A smooth random picture, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("seed", range(5))
def test_other_sizes_qualities_and_brightness_stay_near(seed: int) -> None:
    image = picture(seed)
    known = perceptual_hash(image)
    assert -(2**63) <= known < 2**63
    assert distance(known, perceptual_hash(cv2.resize(image, (200, 150), interpolation=cv2.INTER_AREA))) <= 4
    jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
    assert distance(known, perceptual_hash(jpeg)) <= 4
    assert distance(known, perceptual_hash(cv2.convertScaleAbs(image, alpha=0.8, beta=20))) <= 6
    assert distance(known, perceptual_hash(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))) == 0


def test_other_pictures_are_far() -> None:
    hashes = [perceptual_hash(picture(seed)) for seed in range(40)]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 10
    assert distance(hashes[0], perceptual_hash(picture(0)[:, ::-1])) > 10  # a mirror image is another


@pytest.mark.parametrize("side", [1, 8, 500])
def test_a_single_colour_has_one_hash_at_any_size(side: int) -> None:
    flat = perceptual_hash(np.full((side, side, 3), 90, np.uint8))
    assert flat == perceptual_hash(np.full((77, 33, 3), 200, np.uint8))
    assert distance(flat, perceptual_hash(np.zeros((20, 20, 3), np.uint8))) <= 1


def test_photographs_are_told_apart(assets: Path) -> None:
    paths = sorted((assets / "coco128_yolo" / "images" / "train2017").glob("*.jpg"))
    hashes = np.array([perceptual_hash(read_image(path)) for path in paths])
    assert len(np.unique(hashes)) == 128
    assert len(near_pairs(np.unique(hashes), 10)) == 0


@given(
    st.lists(SIGNED, min_size=1, max_size=12), st.lists(st.integers(0, 63), max_size=25), st.integers(0, 9)
)
def test_pairs_are_those_of_comparing_each_with_each(seeds: list[int], flips: list[int], most: int) -> None:
    grown = list(seeds)
    for place, bit in enumerate(flips):  # a random walk leaves pairs at every small distance
        value = grown[place % len(grown)] ^ (1 << bit)
        grown.append(value - 2**64 if value >= 2**63 else value + 2**64 if value < -(2**63) else value)
    hashes = np.unique(np.array(grown, np.int64))
    values = hashes.view(np.uint64)
    apart = np.bitwise_count(values[:, None] ^ values[None])
    assert np.array_equal(near_pairs(hashes, most), np.argwhere(np.triu(apart <= most, 1)))


def test_groups_name_their_first_member_and_reach_through_others() -> None:
    far = 0x5555_0000_FFFF_1234
    hashes = np.array([far, 0b0000, 0b0011, far, 0b1111, -1], np.int64)
    assert near_duplicates(hashes, 2).tolist() == [0, 1, 1, 0, 1, 5]
    assert near_duplicates(hashes, 1).tolist() == [0, 1, 2, 0, 4, 5]
    assert near_duplicates(np.array([], np.int64), 2).tolist() == []


def test_many_equal_hashes_cost_nothing() -> None:
    hashes = np.repeat(np.array([5, 4, -7], np.int64), 40_000)
    assert np.unique(near_duplicates(hashes, 4)).tolist() == [0, 80_000]


def test_a_distance_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.16 bits, not 17"):
        near_pairs(np.array([1], np.int64), 17)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 7))
def test_pairs_of_equal_keys_come_once_each_in_any_chunk(keys: list[int], chunk: int) -> None:
    found = [
        (min(pair), max(pair))
        for first, second in equal_pairs(np.array(keys, np.int64), chunk)
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    wanted = [(i, j) for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]]
    assert sorted(found) == sorted(wanted)
