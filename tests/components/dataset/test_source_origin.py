"""Addresses and archives: what each is taken for, and that a new kind is one file."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.dataset import sources
from components.dataset.sources.detect import layouts
from components.dataset.sources.origin import open_source, origins
from components.dataset.work import materialise
from yolo_core.errors import UsageError

from .conftest import Make, Write

NEW_SOURCE = """
from dataclasses import replace
from components.dataset.sources.origin import open_place

class Attic:
    form = "attic://NAME"

    def takes(self, address):
        return address.startswith("attic://")

    def open(self, address, config):
        return open_place({root!r} / address.removeprefix("attic://"), address, config)

ORIGIN = Attic()
"""


@pytest.fixture
def _fresh_lists() -> Iterator[None]:
    """Forget the known kinds before and after."""
    for known in (origins, layouts):
        known.cache_clear()
    yield
    for known in (origins, layouts):
        known.cache_clear()


@pytest.mark.usefixtures("_fresh_lists")
def test_a_new_source_is_one_file(
    tmp_path: Path, coco: Write, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = coco()
    folder = tmp_path / "more"
    folder.mkdir()
    code = NEW_SOURCE.replace("{root!r}", f"__import__('pathlib').Path({str(root.parent)!r})")
    (folder / "attic_of_the_test.py").write_text(code)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    dataset = materialise(config(source="attic://coco"), tmp_path / "out")
    assert dataset.splits["train"].images == 2


def test_the_known_kinds() -> None:
    assert {origin.form for origin in origins()} == {
        "builtin",
        "coco2017",
        "dvc://REPO@REV/PATH",
        "mlflow://RUN_ID",
        "s3://BUCKET/PREFIX",
    }
    assert set(layouts()) == {"coco", "voc", "yolo"}


def test_an_unknown_kind_of_address(config: Make) -> None:
    with pytest.raises(UsageError, match=r"ftp://x is of no known kind; give a folder.*s3://BUCKET/PREFIX"):
        open_source("ftp://x", config())


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz", ".TGZ"])
def test_an_archive_of_a_folder(ending: str, tmp_path: Path, yolo: Write, config: Make) -> None:
    root = yolo()
    path = tmp_path / f"cats.v2{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                archive.write(file, f"inside/{file.relative_to(root)}")
            archive.writestr("__MACOSX/._x", b"")
    else:
        with tarfile.open(path, "w:gz" if ending.lower().endswith("gz") else "w") as tar:
            tar.add(root, ".")
    dataset = materialise(config(source=str(path)), tmp_path / "one")
    assert dataset.digest == materialise(config(source=str(root)), tmp_path / "two").digest
    assert dataset.name == "cats.v2"
    # The second time it is not unpacked again.
    unpacked = next((tmp_path / "downloads" / "archives").iterdir())
    made = unpacked.stat().st_mtime_ns
    materialise(config(source=str(path)), tmp_path / "three")
    assert unpacked.stat().st_mtime_ns == made
