"""A stage that is stopped leaves the dataset that was there; the writer's own tests try every step."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.dataset.work import materialise
from yolo_core.data.coco import open_dataset
from yolo_core.errors import UsageError

from .conftest import Make, Write

# Runs `materialise` on the source and target given, as the stage does; ends with 3 on a full disk.
WRITER = """
import sys
from components.dataset.config import BuiltinConfig, DatasetConfig
from components.dataset.work import materialise
from pathlib import Path
from yolo_core.errors import YoloError
config = DatasetConfig(
    source=sys.argv[1], format="auto", seed=0, val_fraction=0.0, test_fraction=0.0, group_by="none",
    shard_above=10_000, downloads="unused", coco2017_url="http://127.0.0.1:9",
    builtin=BuiltinConfig(train_images=1, val_images=1, test_images=1),
)
try:
    materialise(config, Path(sys.argv[2]))
except YoloError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(source: Path, target: Path, largest: int | None = None) -> subprocess.Popen[str]:
    """Start a writer, which may write files of ``largest`` bytes at most."""

    def limit() -> None:
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    command = [sys.executable, "-c", WRITER, str(source), str(target)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO folder of 150 images of 180 kB, which takes a while to write."""
    root = tmp_path_factory.mktemp("many") / "yolo"
    (root / "labels" / "train").mkdir(parents=True)
    (root / "images" / "train").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    content = cv2.imencode(".png", pixels)[1].tobytes()
    for number in range(150):
        (root / "images" / "train" / f"{number:03d}.png").write_bytes(content)
        (root / "labels" / "train" / f"{number:03d}.txt").write_text("0 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    return root


def test_a_killed_stage_leaves_what_was_there(many: Path, coco: Write, config: Make, tmp_path: Path) -> None:
    target = tmp_path / "data" / "dataset"
    old = materialise(config(source=str(coco())), target).digest
    process = start(many, target)
    deadline = time.monotonic() + 120
    while not any(target.parent.glob(".dataset-writing/**/*.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert process.stderr is not None and not process.stderr.read()
    assert open_dataset(target).digest == old
    # The next run clears what is left, and is not kept out by the lock of the dead one.
    dataset = materialise(config(source=str(many)), target)
    assert dataset.splits["train"].images == 150
    assert [path.name for path in target.parent.iterdir()] == ["dataset"]


def test_a_full_disk_leaves_what_was_there(many: Path, coco: Write, config: Make, tmp_path: Path) -> None:
    """The limit of a file's size makes the kernel refuse a write half-way, as a full disk does."""
    target = tmp_path / "data" / "dataset"
    old = materialise(config(source=str(coco())), target).digest
    process = start(many, target, largest=100_000)
    assert process.stderr is not None
    complaint = process.stderr.read()
    assert process.wait() == 3, complaint
    assert complaint.endswith(" cannot be written: File too large; make room and run again\n")
    assert complaint.startswith(str(target.parent)) and complaint.count("\n") == 1
    assert open_dataset(target).digest == old
    assert [path.name for path in target.parent.iterdir()] == ["dataset"]


def test_what_is_no_dataset_is_never_replaced(coco: Write, config: Make, tmp_path: Path) -> None:
    target = tmp_path / "data" / "dataset"
    target.mkdir(parents=True)
    (target / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a dataset"):
        materialise(config(source=str(coco())), target)
    assert (target / "letter.txt").read_text() == "mine"
