"""A version is written whole or not at all: processes really killed, disks really full."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.children import in_child
from yolo_core.data.coco import DetectionDataset, SourceImage, class_table, open_dataset, write_dataset
from yolo_core.errors import UnreachableError, UsageError

CLASSES = class_table(["red", "green", "blue"])
Paint = Callable[..., SourceImage]


def write(target: Path, images: list[SourceImage], shard_bytes: int | None = None) -> DetectionDataset:
    return write_dataset(target, {"train": images}, CLASSES, name="t", source="t", shard_bytes=shard_bytes)


def kill_at(event_number: int, work: Callable[[], object]) -> Callable[[], object]:
    """Do the work, but be killed just before the n-th file is opened for writing, made, moved or deleted."""
    left = event_number

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
        if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hooked() -> None:
        sys.addaudithook(count)
        work()

    return hooked


@pytest.mark.parametrize("shard_bytes", [None, 3000])
def test_a_process_killed_at_any_moment_leaves_a_whole_version(
    tmp_path: Path, paint: Paint, shard_bytes: int | None
) -> None:
    old_images, new_images = [paint(seed) for seed in range(3)], [paint(seed) for seed in range(3, 9)]
    digests = [write(tmp_path / "x", images).digest for images in (old_images, new_images)]
    target = tmp_path / "d"
    write(target, old_images, shard_bytes)
    outcomes = []
    for number in range(1, 200):
        code = in_child(kill_at(number, lambda: write(target, new_images, shard_bytes)))
        if target.exists():
            outcomes.append(digests.index(open_dataset(target).digest))
        else:  # between the two steps of the swap
            outcomes.append(-1)
        again = write(target, old_images, shard_bytes)
        assert again.digest == digests[0] and len(again.samples("train")) == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "x"]
        if code == 0:
            break
    assert outcomes[0] == 0 and outcomes[-1] == 1
    assert outcomes.count(-1) == 1 and len(outcomes) > 10


def test_what_was_between_the_steps_of_a_swap_comes_back(tmp_path: Path, paint: Paint) -> None:
    target = tmp_path / "d"
    before = write(target, [paint(0)]).digest
    number = 0
    while target.exists():
        number += 1
        in_child(kill_at(number, lambda: write(target, [paint(1)])))
    with pytest.raises(ZeroDivisionError):
        write_dataset(target, {"train": failing()}, CLASSES, name="t", source="t")
    assert open_dataset(target).digest == before


def failing() -> Iterator[SourceImage]:
    yield from ()
    raise ZeroDivisionError


def test_two_processes_do_not_write_at_once(tmp_path: Path, paint: Paint) -> None:
    def waiting() -> Iterator[SourceImage]:
        yield paint(0)
        with pytest.raises(UsageError, match="another process is writing to"):
            write(tmp_path / "d", [paint(1)])
        yield paint(2)

    dataset = write_dataset(tmp_path / "d", {"train": waiting()}, CLASSES, name="t", source="t")
    assert len(dataset.samples("train")) == 2


@pytest.mark.parametrize("shard_bytes", [None, 10**6])
def test_a_file_that_may_not_grow_leaves_the_old_version(
    tmp_path: Path, paint: Paint, shard_bytes: int | None
) -> None:
    before = write(tmp_path / "d", [paint(0)]).digest

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            write(tmp_path / "d", [paint(seed) for seed in range(40)], shard_bytes)
        except UnreachableError as error:
            os._exit(7 if "make room and run again" in str(error) else 8)

    assert in_child(limited) == 7
    assert open_dataset(tmp_path / "d").digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; skips where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("shard_bytes", [None, 10**6])
def test_a_full_disk_leaves_the_old_version(small_disk: Path, paint: Paint, shard_bytes: int | None) -> None:
    target = small_disk / "d"
    before = write(target, [paint(0)]).digest
    with pytest.raises(UnreachableError, match=r"No space left on device; make room and run again"):
        write(target, [paint(seed, width=300, height=200) for seed in range(300)], shard_bytes)
    assert open_dataset(target).digest == before
    assert [path.name for path in small_disk.iterdir()] == ["d"]
    after = write(target, [paint(1)])
    assert after.samples("train")[0].read_bytes()
