"""Image files of a source: do they decode, how large are they, and how are they stored.

The canonical folder holds JPEG and PNG, with pixels as they are to be seen. So a picture of another
kind becomes a PNG, and one that only a tag turns upright (as phones write them) is turned for good.
Every other file is copied byte by byte.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from yolo_core.data.coco import SourceImage
from yolo_core.data.images import decode_image
from yolo_core.data.phash import perceptual_hash
from yolo_core.data.writer import IMAGE_SUFFIXES
from yolo_core.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_STORED = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further pictures behind it
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap width and height
_QUALITY = 95  # of a JPEG that had to be turned

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureFacts:
    """What is known of an image file.

    Attributes:
        stored: (width, height) of the pixels in the file.
        upright: (width, height) as it is to be seen; differs if a tag turns it by 90 degrees.
        turned: whether a tag asks for a turn or a mirror image.
        convert: whether it is neither JPEG nor PNG, or is not called so.
        sha256: content digest, hex.
        phash: perceptual hash of the stored pixels; see `yolo_core.data.phash`.
    """

    stored: Size
    upright: Size
    turned: bool
    convert: bool
    sha256: str
    phash: int


def examine(
    paths: Iterable[Path], report: Callable[[Path, str], None], threads: int | None = None
) -> dict[Path, PictureFacts]:
    """Decode every image file once and return what is known of it; ``report`` hears of each that fails."""
    listed = list(dict.fromkeys(paths))
    facts: dict[Path, PictureFacts] = {}
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8)) as pool:
        for path, found in zip(listed, pool.map(_examine, listed), strict=True):
            if isinstance(found, str):
                report(path, found)
            else:
                facts[path] = found
    return facts


def as_stored(image: SourceImage, facts: PictureFacts) -> SourceImage:
    """Return the image as the canonical folder keeps it: converted or turned where that is needed."""
    if not isinstance(image.content, Path) or not (facts.convert or facts.turned):
        return image
    encoded = io.BytesIO()
    with Image.open(image.content) as picture:
        upright = ImageOps.exif_transpose(picture) if facts.turned else picture
        if picture.format in ("JPEG", "MPO"):
            suffix = ".jpg"
            upright.convert("RGB").save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
        else:
            suffix = ".png"
            _eight_bits(upright).save(encoded, "PNG")
    name = PurePosixPath(image.file_name)
    fitting = name.suffix.lower() in IMAGE_SUFFIXES and not facts.convert
    return replace(
        image, file_name=str(name if fitting else name.with_suffix(suffix)), content=encoded.getvalue()
    )


def as_annotated(facts: PictureFacts, size: Size | None) -> PictureFacts | None:
    """Return the facts that fit the size the annotations were made for, or None if none do.

    Annotations of a picture with a tag were made on its upright form, unless their size says
    otherwise; then the tag is ignored and the file copied as it is.
    """
    if size is None or size == facts.upright:
        return facts
    if size == facts.stored:
        return replace(facts, upright=facts.stored, turned=False)
    return None


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return the picture as RGB; of 16 bits the upper eight stay."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _examine(path: Path) -> PictureFacts | str:
    """Return what is known of a file, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        with Image.open(io.BytesIO(content)) as picture:
            stored, kind = picture.size, picture.format
            orientation = int(picture.getexif().get(_ORIENTATION, 1))
            pixels = None if kind in _STORED else np.asarray(_eight_bits(picture))
    except Image.DecompressionBombError:
        return "has too many pixels; cut it into smaller images"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return "does not decode as an image"
    if pixels is None:
        try:
            pixels = decode_image(content, path.name)
        except DataError as error:
            return str(error).removeprefix(f"{path.name} ").split(";")[0]
    turned = 2 <= orientation <= 8
    return PictureFacts(
        stored=stored,
        upright=stored[::-1] if orientation >= 5 and turned else stored,
        turned=turned,
        convert=kind not in _STORED or path.suffix.lower() not in IMAGE_SUFFIXES,
        sha256=hashlib.sha256(content).hexdigest(),
        phash=perceptual_hash(pixels),
    )
