"""Shards: the same dataset in few files, read in place by threads and processes, whole or refused."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolo_core.data.cache import CacheSettings, build_cache, no_cache
from yolo_core.data.coco import DetectionDataset, SourceImage, class_table, open_dataset, write_dataset
from yolo_core.data.eval_loader import EvalLoader, EvalLoaderSettings
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.errors import DataError

CLASSES = class_table(["red", "green", "blue"])
SMALL = 6000  # bytes per shard: a handful of painted pictures
Paint = Callable[..., SourceImage]


def write(target: Path, shard_bytes: int | None, **splits: list[SourceImage]) -> DetectionDataset:
    return write_dataset(target, splits, CLASSES, name="test", source="tests", shard_bytes=shard_bytes)


@pytest.fixture(scope="module")
def pictures(paint: Paint) -> dict[str, list[SourceImage]]:
    named = [
        replace(paint(40), file_name="left/ümlaut 1.png"),
        replace(paint(41), file_name="n" * 150 + ".png"),
    ]
    return {
        "train": [*map(paint, range(40)), *named],
        "val": [paint(seed, width=120) for seed in range(50, 60)],
    }


@pytest.fixture(scope="module")
def files(
    pictures: dict[str, list[SourceImage]], tmp_path_factory: pytest.TempPathFactory
) -> DetectionDataset:
    return write(tmp_path_factory.mktemp("files") / "d", None, **pictures)


@pytest.fixture
def packed(pictures: dict[str, list[SourceImage]], tmp_path: Path) -> DetectionDataset:
    return write(tmp_path / "packed", SMALL, **pictures)


def shards_of(dataset: DetectionDataset) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.root.glob("shards/*.tar"))}


def edit_index(dataset: DetectionDataset, change: Callable[[list[list[str]]], object]) -> None:
    path = dataset.root / "shards/index.csv"
    rows = list(csv.reader(path.open(newline="", encoding="utf-8")))
    change(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_packed_or_not_it_is_the_same_dataset(files: DetectionDataset, packed: DetectionDataset) -> None:
    assert packed.digest == files.digest and packed.shards >= 4 and files.shards == 0
    assert not (packed.root / "images").exists() and not (files.root / "shards").exists()
    for name in ("manifest.csv", "annotations/train.json", "annotations/val.json"):
        assert (packed.root / name).read_bytes() == (files.root / name).read_bytes()
    for split in ("train", "val"):
        for loose, member in zip(files.samples(split), packed.samples(split), strict=True):
            assert member.path.relative_to(packed.root) == loose.path.relative_to(files.root)
            assert member.read_bytes() == loose.read_bytes() == loose.path.read_bytes()
            np.testing.assert_array_equal(member.read_image(), loose.read_image())
            np.testing.assert_array_equal(member.boxes, loose.boxes)
    assert packed.read_bytes("images/train/0003.png") == files.read_bytes("images/train/0003.png")


def test_shards_are_tar_files_that_others_read(packed: DetectionDataset, tmp_path: Path) -> None:
    rows = packed.manifest()
    seen = set()
    for path in packed.root.glob("shards/*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                assert content is not None and (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
                assert hashlib.sha256(content.read()).hexdigest() == rows[member.name].sha256
                seen.add(member.name)
    assert seen == set(rows)
    if shutil.which("tar"):
        subprocess.run(["tar", "xf", packed.root / "shards/train-00000.tar"], cwd=tmp_path, check=True)
        first = tmp_path / "images/train/0000.png"
        assert first.read_bytes() == packed.read_bytes("images/train/0000.png")


def test_shards_are_about_as_large_as_asked(tmp_path: Path) -> None:
    from yolo_core.data.shards import ShardWriter, read_index

    rng = np.random.default_rng(0)
    writer = ShardWriter(root=tmp_path, shard_bytes=200_000)
    for number in range(4000):
        content = rng.bytes(int(rng.integers(500, 1500)))
        writer.add(f"images/train/{number}.jpg", content, hashlib.sha256(content).hexdigest())
    writer.end_split()
    writer.finish()
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("shards/*.tar"))][:-1]
    assert min(sizes) >= 100_000 and max(sizes) < 403_000
    assert 150_000 < np.mean(sizes) < 250_000
    assert len(read_index(tmp_path)) == 4000


def test_an_added_image_changes_the_shard_that_it_is_in(
    packed: DetectionDataset, pictures: dict[str, list[SourceImage]], paint: Paint, tmp_path: Path
) -> None:
    before = set(shards_of(packed).values())
    train = pictures["train"]
    more = [*train[:20], replace(paint(99), file_name="0019b.png"), *train[20:]]
    after = set(shards_of(write(tmp_path / "more", SMALL, train=more, val=pictures["val"])).values())
    assert 1 <= len(after - before) <= 2 < len(before)
    again = write(tmp_path / "again", SMALL, **pictures)
    assert set(shards_of(again).values()) == before


def test_loaders_and_cache_give_the_same_from_shards(
    files: DetectionDataset, packed: DetectionDataset
) -> None:
    settings = CacheSettings(image_size=64, memory_bytes=1 << 24, threads=2)
    for loose, member in zip(files.samples("val"), packed.samples("val"), strict=True):
        caches = build_cache([loose], settings), build_cache([member], settings), no_cache(settings)
        pixels = [cache.get(sample) for cache, sample in zip(caches, (loose, member, member), strict=True)]
        np.testing.assert_array_equal(pixels[0], pixels[1])
        np.testing.assert_array_equal(pixels[0], pixels[2])
    training = TrainLoaderSettings(image_size=64, batch_size=8, threads=2)
    batches = [list(TrainLoader(dataset.samples("train"), training)) for dataset in (files, packed)]
    assert len(batches[0]) == len(batches[1]) > 1
    for one, other in zip(*batches, strict=True):
        assert (one.images == other.images).all() and (one.targets == other.targets).all()
    evaluation = EvalLoaderSettings(image_size=64, batch_size=4, threads=2)
    for one, other in zip(
        *(EvalLoader(dataset.samples("val"), evaluation) for dataset in (files, packed)), strict=True
    ):
        assert (one.images == other.images).all()


def test_threads_and_forked_processes_read_at_once(packed: DetectionDataset) -> None:
    samples = packed.samples("train")
    assert samples[0].read_bytes()  # the parent has read before it forks
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    def sound(number: int) -> bool:
        order = np.random.default_rng(number).permutation(len(samples))
        return all(hashlib.sha256(samples[i].read_bytes()).hexdigest() == samples[i].sha256 for i in order)

    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0 if all(sound(number * 10 + turn) for turn in range(10)) else 1)
        children.append(child)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sound, range(40)))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before + 1


def test_a_dataset_that_is_replaced_is_not_read_from_its_old_shards(
    packed: DetectionDataset, pictures: dict[str, list[SourceImage]]
) -> None:
    packed.samples("train")[0].read_bytes()
    turned = {"train": pictures["train"][::-1], "val": pictures["val"]}
    fresh = write(packed.root, SMALL, **turned)
    assert fresh.digest == packed.digest
    for sample in fresh.samples("train"):
        assert hashlib.sha256(sample.read_bytes()).hexdigest() == sample.sha256


def test_a_dataset_of_shards_can_be_moved_and_become_files(
    packed: DetectionDataset, pictures: dict[str, list[SourceImage]], tmp_path: Path
) -> None:
    shutil.move(packed.root, tmp_path / "elsewhere")
    moved = open_dataset(tmp_path / "elsewhere")
    assert all(sample.read_bytes() for sample in moved.samples("val"))
    loose = write(tmp_path / "elsewhere", None, **pictures)
    assert not (loose.root / "shards").exists() and loose.digest == moved.digest


def test_a_missing_shard_or_index_is_named(packed: DetectionDataset) -> None:
    (packed.root / "shards/val-00000.tar").unlink()
    with pytest.raises(DataError, match=r"val-00000\.tar is missing; bring it \(dvc pull\)"):
        open_dataset(packed.root).samples("train")
    (packed.root / "shards/index.csv").unlink()
    with pytest.raises(DataError, match=r"index\.csv is missing"):
        open_dataset(packed.root)


def test_a_shard_that_is_cut_off_is_named(packed: DetectionDataset) -> None:
    path = packed.root / "shards/train-00000.tar"
    samples = [sample for sample in packed.samples("train") if sample.span and sample.span.file == path]
    os.truncate(path, 2000)
    with pytest.raises(DataError, match=r"train-00000\.tar ends before .*bring the shard again"):
        open_dataset(packed.root).samples("train")
    with pytest.raises(DataError, match=r"train-00000\.tar ends before"):
        samples[-1].read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"train-00000\.tar cannot be read"):
        samples[0].read_image()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].__setitem__(2, "start"), "must have the columns path, shard, offset, bytes"),
        (lambda rows: rows[3].pop(), r"index\.csv is broken"),
        (lambda rows: rows[3].__setitem__(2, "many"), r"index\.csv is broken"),
        (lambda rows: rows[3].__setitem__(2, "-512"), "ends before"),
        (lambda rows: rows[3].__setitem__(3, "-1"), "ends before"),
        (lambda rows: rows[3].__setitem__(3, "9" * 30), "ends before"),
        (
            lambda rows: rows[3].__setitem__(1, "../../../../etc/passwd"),
            "names '../../../../etc/passwd', which",
        ),
        (lambda rows: rows[3].__setitem__(1, "/etc/passwd"), "which is no shard"),
        (lambda rows: rows.pop(3), r"index\.csv lacks images/train/0002\.png"),
    ],
)
def test_a_broken_index_is_named(
    packed: DetectionDataset, change: Callable[[list[list[str]]], object], message: str
) -> None:
    edit_index(packed, change)
    with pytest.raises(DataError, match=message):
        packed.samples("train")


def test_an_index_that_points_elsewhere_gives_no_wrong_image(packed: DetectionDataset) -> None:
    edit_index(packed, lambda rows: rows[3].__setitem__(2, "0"))
    with pytest.raises(DataError, match=r"0002\.png does not decode"):
        packed.samples("train")[2].read_image()


def test_unknown_images_are_named(files: DetectionDataset, packed: DetectionDataset) -> None:
    with pytest.raises(DataError, match=r"lacks images/train/gone\.png"):
        packed.read_bytes("images/train/gone.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        files.read_bytes("images/train/gone.png")
    with pytest.raises(DataError, match="no path"):
        files.read_bytes("images/train/\0.png")


def test_a_broken_count_of_shards_is_named(packed: DetectionDataset) -> None:
    path = packed.root / "dataset.json"
    for value in ("many", None, []):
        path.write_text(json.dumps({**json.loads(path.read_text()), "shards": value}))
        with pytest.raises(DataError, match=r"dataset\.json is broken"):
            open_dataset(packed.root)
