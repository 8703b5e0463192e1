"""Versions in shards: through the stages, under the real DVC, to a real S3 server and back."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from components.dataset.config import BuiltinConfig
from components.dataset.preview import preview
from components.dataset.work import materialise
from yolo_core.data.coco import (
    DetectionDataset,
    SourceBox,
    SourceImage,
    class_table,
    open_dataset,
    write_dataset,
)

from .conftest import Launch, Make, picture

BUCKET = "work"
SHARD = 50_000  # bytes: some ten pictures


def dvc(root: Path, *words: str) -> None:
    command = [sys.executable, "-m", "dvc", *words, "-q"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def images(folder: Path, count: int) -> list[SourceImage]:
    paths = [picture(folder / f"{seed:03}.png", seed=seed) for seed in range(count)]
    box = SourceBox(class_index=0, box=(3.0, 4.0, 20.0, 10.0))
    return [SourceImage(file_name=path.name, content=path, boxes=[box]) for path in paths]


def write(root: Path, train: list[SourceImage]) -> DetectionDataset:
    return write_dataset(
        root, {"train": train}, class_table(["cat"]), name="cats", source="t", shard_bytes=SHARD
    )


def all_sound(dataset: DetectionDataset) -> bool:
    samples = [sample for split in dataset.splits for sample in dataset.samples(split)]
    return all(hashlib.sha256(sample.read_bytes()).hexdigest() == sample.sha256 for sample in samples)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty repository whose DVC remote is the S3 server."""
    root = tmp_path / "repository"
    root.mkdir()
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    (root / ".dvc").mkdir()
    place = f"s3://{BUCKET}/{tmp_path.name}"
    (root / ".dvc/config").write_text(
        f"[core]\nanalytics = false\nremote = store\n['remote \"store\"']\nurl = {place}\n"
    )
    return root


def test_push_to_s3_and_pull_into_an_empty_place(s3: object, repository: Path, tmp_path: Path) -> None:
    bucket = s3.client()  # type: ignore[attr-defined]
    folder = repository / "dataset"
    train = images(tmp_path / "src", 100)
    first = write(folder, train)
    assert first.shards >= 4
    pointers = []
    counts = []
    for version in (train, [replace(train[0], file_name="000b.png"), *train[:50], *train[51:]]):
        dataset = write(folder, version)
        dvc(repository, "add", "dataset")
        dvc(repository, "push")
        pointers.append((repository / "dataset.dvc").read_text())
        listed = bucket.list_objects_v2(Bucket=BUCKET, Prefix=f"{tmp_path.name}/")
        counts.append(listed["KeyCount"])
    # Shards, index, manifest, annotations, dataset.json and DVC's own list.
    assert counts[0] == first.shards + 5
    assert counts[1] - counts[0] < first.shards  # shards that both versions have are there once
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(folder)
    (repository / "dataset.dvc").write_text(pointers[0])  # what `git checkout` of the older commit does
    dvc(repository, "pull")
    pulled = open_dataset(folder)
    assert pulled.digest == first.digest != dataset.digest
    assert all_sound(pulled)


def test_the_threshold_decides(config: Make, tmp_path: Path) -> None:
    loose = materialise(config(shard_above=7), tmp_path / "loose")  # 3 + 2 + 2 images
    packed = materialise(config(shard_above=6), tmp_path / "packed")
    assert (loose.shards, packed.shards) == (0, 3)
    assert loose.digest == packed.digest
    about = [json.loads((dataset.root / "dataset.json").read_text()) for dataset in (loose, packed)]
    assert about[1].pop("shards") == 3 and about[0] == about[1]
    again = materialise(config(shard_above=7), tmp_path / "packed")
    assert not (again.root / "shards").exists() and all_sound(again)


def test_a_preview_is_the_same_from_shards(config: Make, tmp_path: Path) -> None:
    sheets = []
    for name, limit in (("loose", 100), ("packed", 0)):
        root = materialise(config(shard_above=limit), tmp_path / name).root
        sheets.append(cv2.imread(str(preview(root, tmp_path / f"{name}.png"))))
    np.testing.assert_array_equal(*sheets)


def test_validation_reads_shards(config: Make, launch: Launch, workspace: Path) -> None:
    sizes = BuiltinConfig(train_images=8, val_images=8, test_images=8)
    dataset = materialise(config(builtin=sizes, shard_above=0), workspace / "data/dataset")
    shard = next(dataset.root.glob("shards/train*.tar"))
    content = bytearray(shard.read_bytes())
    content[600:700] = bytes(100)  # the head of the first image
    shard.write_bytes(content)
    done = launch("validate", "--params", workspace / "params.yaml", "--workspace", workspace, "--json")
    assert done.code == 1
    faults = [line for line in done.err.splitlines() if "decode" in line]
    assert len(faults) == 1 and dataset.samples("train")[0].path.name in faults[0]
