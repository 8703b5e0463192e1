"""Kept points: they come back as they were, are told from others, and a damaged one is measured again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.study.points import Points, code_digest
from yolo_core.errors import UnreachableError

KEY = {"kind": "accuracy", "size": 320, "model": "sha256:1", "dataset": "sha256:2", "iou": 0.7}
VALUES = {"map": 0.25, "images": 12}
ROWS = {7: np.arange(18, dtype=np.float32).reshape(3, 6), 9: np.empty((0, 6), np.float32)}


def test_a_point_comes_back_as_it_was(tmp_path: Path) -> None:
    points = Points(tmp_path / "deep" / "points")
    assert points.get(KEY) is None and points.rows(KEY) is None
    points.put(KEY, VALUES, ROWS)
    assert points.get(KEY) == VALUES
    found = points.rows(KEY)
    assert found is not None and list(found) == [7, 9]
    assert all(np.array_equal(found[key], ROWS[key]) and found[key].shape[1] == 6 for key in ROWS)
    assert not [path for path in points.folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", 352), ("model", "sha256:9"), ("dataset", "sha256:9"), ("iou", 0.65), ("kind", "times")],
)
def test_another_key_is_another_point(tmp_path: Path, key: str, value: object) -> None:
    points = Points(tmp_path)
    points.put(KEY, VALUES)
    assert points.get({**KEY, key: value}) is None
    points.put({**KEY, key: value}, {"map": 0.5})
    assert points.get(KEY) == VALUES


@given(data=st.data())
def test_a_damaged_point_is_never_taken_for_a_good_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    points = Points(tmp_path_factory.mktemp("points"))
    points.put(KEY, VALUES, ROWS)
    suffix = data.draw(st.sampled_from([".json", ".npz"]))
    [path] = points.folder.glob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    # A byte of white space in the JSON says nothing: then the point is still the same one.
    assert points.get(KEY) in (None, VALUES)
    found = points.rows(KEY)
    assert found is None or all(np.array_equal(found[key], ROWS[key]) for key in ROWS)


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b'{"values": {}, "key": {}}', b"\xff"])
def test_damage_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, suffix: str
) -> None:
    points = Points(tmp_path)
    points.put(KEY, VALUES, ROWS)
    [path] = tmp_path.glob(f"*.{suffix}")
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert (points.get(KEY) if suffix == "json" else points.rows(KEY)) is None
    assert any(str(path) in line and "measured again" in line for line in caplog.messages)
    points.put(KEY, VALUES, ROWS)
    assert points.get(KEY) == VALUES and points.rows(KEY) is not None


def test_values_that_were_edited_do_not_count(tmp_path: Path) -> None:
    points = Points(tmp_path)
    points.put(KEY, VALUES)
    [path] = tmp_path.iterdir()
    path.write_text(path.read_text().replace("0.25", "0.95"))
    assert points.get(KEY) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnreachableError, match=r"cannot be written.*study\.storage"):
        Points(tmp_path / "file").put(KEY, VALUES)


def test_the_code_is_part_of_what_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import yolo_core

    def digest_of(text: str) -> str:
        (tmp_path / "module.py").write_text(text)
        code_digest.cache_clear()
        return code_digest()

    before: Any = code_digest()
    monkeypatch.setattr(yolo_core, "__file__", str(tmp_path / "__init__.py"))
    assert digest_of("a = 1") != digest_of("a = 2") != before
    monkeypatch.undo()
    code_digest.cache_clear()
    assert code_digest() == before
