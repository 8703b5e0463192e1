"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_core.errors import UsageError
from yolo_core.export.files import digest_of, size_of, whole


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_appears_when_all_is_written(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model.onnx"
    with whole(target) as path:
        path.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["deep", "deep/model.onnx"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_a_folder_is_replaced_with_all_in_it(tmp_path: Path) -> None:
    target = tmp_path / "openvino"
    for content in ("a", "b"):
        with whole(target) as path:
            path.mkdir()
            (path / content).touch()
    assert names(tmp_path) == ["openvino", "openvino/b"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    kept.write_bytes(b"precious")
    target = tmp_path / "model.onnx"
    target.symlink_to(kept)
    with whole(target) as path:
        path.write_bytes(b"new")
    assert kept.read_bytes() == b"precious"
    assert not target.is_symlink()


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"cannot write .*model.onnx: No space left"),
        whole(tmp_path / "model.onnx"),
        Path("/dev/full").open("w", encoding="utf-8") as full,
    ):
        full.write("x")
    assert names(tmp_path) == []


def test_size_and_digest_of_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a").write_bytes(b"123")
        (tmp_path / name / "sub" / "b").write_bytes(b"4567")
    one, two = tmp_path / "one", tmp_path / "two"
    assert size_of(one) == 7
    assert size_of(one / "a") == 3
    assert digest_of(one) == digest_of(two)
    (two / "sub" / "b").rename(two / "sub" / "c")
    assert digest_of(one) != digest_of(two), "names count"
    assert digest_of(one / "a").startswith("sha256:a665a459")
