"""Image files of a source: faults, kinds and orientation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from components.dataset.pictures import as_annotated, as_stored, examine
from yolo_core.data.coco import SourceImage
from yolo_core.data.images import decode_image

from .conftest import picture


def look(path: Path) -> tuple[Any, list[str]]:
    faults: list[str] = []
    facts = examine([path], lambda _, problem: faults.append(problem))
    return facts.get(path), faults


def test_good_files_are_measured_and_copied(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        facts, faults = look(picture(tmp_path / name, (40, 30)))
        assert not faults
        assert (facts.stored, facts.upright, facts.turned, facts.convert) == (
            (40, 30),
            (40, 30),
            False,
            False,
        )
        image = SourceImage(file_name=name, content=tmp_path / name)
        assert as_stored(image, facts) is image


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not decode as an image"),
        (b"not an image", "does not decode as an image"),
        (None, "is cut off: its end is missing"),
    ],
)
def test_broken_files_are_reported(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = picture(tmp_path / "a.jpg", (200, 150))
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    facts, faults = look(path)
    assert facts is None
    assert faults == [problem]


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    assert look(tmp_path / "none.jpg")[1] == ["cannot be read (No such file or directory)"]


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tif"])
def test_other_kinds_become_png(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}", (40, 30))
    facts, _ = look(path)
    stored = as_stored(SourceImage(file_name=f"x/a{suffix}", content=path), facts)
    assert stored.file_name == "x/a.png"
    assert isinstance(stored.content, bytes) and stored.content.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode_image(stored.content, "a"), cv2.imread(str(path)))


def test_a_webp_called_jpg_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(tmp_path / "b.webp").read_bytes())
    facts, _ = look(path)
    assert facts.convert
    assert as_stored(SourceImage(file_name="a.jpg", content=path), facts).file_name == "a.png"


def test_of_sixteen_bits_the_upper_eight_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((8, 8), 200 * 256 + 17, np.uint16)).save(path)
    facts, _ = look(path)
    stored = as_stored(SourceImage(file_name="a.tif", content=path), facts)
    assert isinstance(stored.content, bytes)
    assert (decode_image(stored.content, "a") == 200).all()


def turned(path: Path, orientation: int) -> Path:
    """Write a JPEG, 40 x 30 as stored and left half white, with an EXIF orientation."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, "JPEG", quality=95, exif=exif)
    return path


def test_a_picture_with_a_tag_is_turned_for_good(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.jpg", 6)  # to be seen turned clockwise: white above
    facts, _ = look(path)
    assert (facts.stored, facts.upright, facts.turned) == ((40, 30), (30, 40), True)
    stored = as_stored(SourceImage(file_name="a.jpg", content=path), facts)
    assert stored.file_name == "a.jpg" and isinstance(stored.content, bytes)
    pixels = decode_image(stored.content, "a")
    assert pixels.shape[:2] == (40, 30)
    assert pixels[:18].mean() > 240 > 15 > pixels[22:].mean()
    with Image.open(io.BytesIO(stored.content)) as again:
        assert again.getexif().get(0x0112, 1) == 1


def test_the_annotated_size_decides_about_the_tag(tmp_path: Path) -> None:
    facts, _ = look(turned(tmp_path / "a.jpg", 6))
    assert as_annotated(facts, (30, 40)) == facts
    assert as_annotated(facts, None) == facts
    kept = as_annotated(facts, (40, 30))
    assert kept is not None and not kept.turned and kept.upright == (40, 30)
    assert as_annotated(facts, (41, 30)) is None
