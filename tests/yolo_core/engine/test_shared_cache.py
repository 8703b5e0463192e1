"""Ranks of one machine decode each image once between them and then all read it."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.yolo_core.engine.distributed import run_ranks
from yolo_core.data import cache as cache_module
from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import Sample, open_dataset
from yolo_core.engine.ranks import Ranks
from yolo_core.engine.shared_cache import build_shared_cache
from yolo_core.errors import DataError

SETTINGS = CacheSettings(image_size=48, memory_bytes=10**8)


def work(ranks: Ranks, dataset: Path, broken: Path, scratch: Path) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    samples = open_dataset(dataset).samples("train")
    decoded: list[str] = []
    decode = cache_module.decode_resized

    def counting(sample: Sample, size: int, *, smooth: bool) -> cache_module.Pixels:
        decoded.append(sample.path.name)
        return decode(sample, size, smooth=smooth)

    cache_module.decode_resized = counting
    shared = build_shared_cache(samples, SETTINGS, ranks)
    everybody = ranks.gather(decoded)
    assert sorted(name for part in everybody for name in part) == sorted(
        sample.path.name for sample in samples
    )
    assert all(len(part) >= len(samples) // 2 for part in everybody)

    alone = build_cache(samples, SETTINGS)
    decoded.clear()
    for sample in samples:
        assert np.array_equal(shared.get(sample), alone.get(sample))
    assert not decoded and shared.kind == "memory" and shared.bytes == alone.bytes
    # Each is given its rank's bytes: the first of the machine decides, so that all do the same.
    budget = alone.bytes - (ranks.rank == 0)
    assert build_shared_cache(samples, replace(SETTINGS, memory_bytes=budget), ranks).kind == "none"

    with pytest.raises(DataError, match=r"003\.png"):
        build_shared_cache(open_dataset(broken).samples("train"), SETTINGS, ranks)
    assert list(scratch.iterdir()) == []


def test_two_ranks_decode_each_image_once_and_fail_together(squares: Path, tmp_path: Path) -> None:
    broken, scratch = tmp_path / "broken", tmp_path / "scratch"
    shutil.copytree(squares, broken)
    (broken / "images" / "train" / "003.png").write_bytes(b"no image")
    scratch.mkdir()
    run_ranks(2, work, squares, broken, scratch)


def test_one_rank_has_its_own(squares: Path) -> None:
    samples = open_dataset(squares).samples("train")
    assert build_shared_cache(samples, SETTINGS, Ranks()).kind == "memory"
