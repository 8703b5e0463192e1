"""What replaces a folder or file leaves either the new one or the old one."""

from __future__ import annotations

from pathlib import Path

import pytest

from yolo_core.files import swap


def test_a_file_and_a_folder_are_replaced(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).write_text("old")
        fresh = tmp_path / f"fresh-{name}"
        fresh.write_text("new")
        swap(fresh, tmp_path / name, tmp_path / f"old-{name}")
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "old-folder").is_dir()


def test_the_old_folder_returns_when_the_new_one_cannot_come(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "never written", target, tmp_path / "old")
    assert (target / "kept").exists()
