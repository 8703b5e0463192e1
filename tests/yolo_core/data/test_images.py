"""Reading image files: the stored pixels, whatever the format."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from yolo_core.data.images import decode_image, probe_size, read_image
from yolo_core.errors import DataError


@pytest.fixture(scope="module")
def gradient() -> np.ndarray:
    """(48, 64, 3) RGB with a direction in each channel, so that turns and swaps show."""
    across = np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (48, 1))
    down = np.tile(np.linspace(0, 255, 48, dtype=np.uint8)[:, None], (1, 64))
    return np.stack([across, down, np.full((48, 64), 90, np.uint8)], -1)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_close(image: np.ndarray, rgb: np.ndarray, tolerance: int) -> None:
    assert image.dtype == np.uint8 and image.shape == rgb.shape
    assert np.abs(image[..., ::-1].astype(int) - rgb.astype(int)).max() <= tolerance


def test_png_is_exact_and_bgr(gradient: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "ü name.png"
    Image.fromarray(gradient).save(path)
    assert_close(read_image(path), gradient, 0)


def test_jpeg_is_close(gradient: np.ndarray) -> None:
    assert_close(decode_image(saved(Image.fromarray(gradient), "JPEG", quality=95), "x"), gradient, 12)


def test_orientation_tag_is_ignored(gradient: np.ndarray) -> None:
    tag = Image.Exif()
    tag[0x112] = 6  # "turn a quarter"
    content = saved(Image.fromarray(gradient), "JPEG", quality=95, exif=tag)
    assert_close(decode_image(content, "x"), gradient, 12)
    assert probe_size(content, "x") == (64, 48)


def test_alpha_is_dropped_not_blended(gradient: np.ndarray) -> None:
    clear = np.dstack([gradient, np.zeros((48, 64), np.uint8)])
    assert_close(decode_image(saved(Image.fromarray(clear), "PNG"), "x"), gradient, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_becomes_three_channels(gradient: np.ndarray, kind: str) -> None:
    grey = Image.fromarray(gradient[..., 0])
    image = decode_image(saved(grey, kind), "x")
    assert image.shape == (48, 64, 3)
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()


def test_sixteen_bits_become_eight(gradient: np.ndarray) -> None:
    wide = Image.fromarray(gradient[..., 0].astype(np.uint16) * 257)
    image = decode_image(saved(wide, "PNG"), "x")
    assert_close(image, np.repeat(gradient[..., :1], 3, axis=2), 1)


def test_palette_and_bilevel(gradient: np.ndarray) -> None:
    assert decode_image(saved(Image.fromarray(gradient).quantize(16), "PNG"), "x").shape == (48, 64, 3)
    assert decode_image(saved(Image.fromarray(gradient).convert("1"), "PNG"), "x").shape == (48, 64, 3)


def test_cmyk_is_converted(gradient: np.ndarray) -> None:
    content = saved(Image.fromarray(gradient).convert("CMYK"), "JPEG", quality=95)
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert_close(decode_image(content, "x"), expected, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_files_that_are_cut_off_are_refused(gradient: np.ndarray, kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, gradient.shape, dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    with pytest.raises(DataError, match=r"photo\.jpg"):
        decode_image(content[: int(len(content) * share)], "photo.jpg")


def test_a_thumbnails_end_is_not_the_images(gradient: np.ndarray) -> None:
    content = saved(Image.fromarray(gradient), "JPEG")
    tag = b"\xff\xe1" + (2 + len(content)).to_bytes(2, "big") + content  # a whole JPEG in a comment
    with_thumbnail = content[:2] + tag + content[2:]
    assert decode_image(with_thumbnail, "x").shape == (48, 64, 3)
    with pytest.raises(DataError, match="cut off"):
        decode_image(with_thumbnail[:-20], "x")


def test_bytes_behind_the_end_do_no_harm(gradient: np.ndarray) -> None:
    for kind in ("PNG", "JPEG"):
        assert decode_image(saved(Image.fromarray(gradient), kind) + b"camera notes", "x").shape == (
            48,
            64,
            3,
        )


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n" + b"IEND"]
)
def test_what_is_no_image_is_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.png"):
        decode_image(content, "x.png")
    with pytest.raises(DataError, match=r"x\.png"):
        probe_size(content, "x.png")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_other_formats_are_not_probed(gradient: np.ndarray) -> None:
    with pytest.raises(DataError, match="not a JPEG or PNG"):
        probe_size(saved(Image.fromarray(gradient), "BMP"), "x")


def test_probe_reads_the_size(encoded: Callable[..., bytes]) -> None:
    picture = np.zeros((31, 57, 3), np.uint8)
    assert probe_size(encoded(picture), "x") == (57, 31)
    assert probe_size(encoded(picture, ".jpg"), "x") == (57, 31)
