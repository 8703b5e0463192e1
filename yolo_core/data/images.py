"""Image files to pixels, and their size without decoding them.

Pixels are read as they are stored, because boxes are annotated on (and this project measures) the stored
pixels. What unusual files become (tests/yolo_core/data/test_bad_input.py holds each to it):

==================================  =================================================================
grey, palette, two colours          three channels
16 bits per channel                 8: the upper half of each value
alpha                               dropped, not blended; what is under it shows
CMYK                                BGR
EXIF orientation                    ignored here; the dataset stage turns such pictures for good
1 x 1, 20000 x 50 pixels            read; resized so that no side falls under a pixel
bytes behind the end                ignored
0 bytes, no image                   `DataError`; such a file does not get into a dataset
BMP, WebP, TIFF and others          the dataset stage makes PNGs of them; `write_dataset` refuses them
end missing (a broken copy)         `DataError`; OpenCV alone would fill the rest with grey
damage inside a PNG                 `DataError`, by its checksums
damage inside a JPEG                decoded as far as it goes: JPEG has no checksums
too many pixels                     `DataError`: over 2**20 a side, or some 179 million
==================================  =================================================================

No reader skips a file that it cannot read: the error names it and the remedy, and the validation stage,
which also compares each file with its digest, can set it aside (`yolo_core.data.quarantine`). An image
without boxes, such as one with an empty label file, is kept as background. A coordinate that is not a
number is a `DataError` when a dataset is written or read. Boxes are cut at the image's edges when they
are used; those with nothing left, or too little in a picture, teach nothing there and stay as annotated.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from yolo_core.errors import DataError

Pixels = NDArray[np.uint8]

# Without IGNORE_ORIENTATION OpenCV silently turns images with an EXIF tag.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"
_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112  # EXIF tag


def read_image(path: Path) -> Pixels:
    """Read a JPEG or PNG file as (H, W, 3) BGR uint8.

    Raises:
        DataError: the file is missing, cut off or does not decode; the message names it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> Pixels:
    """Decode JPEG or PNG bytes to (H, W, 3) BGR uint8; ``name`` is what errors call the image."""
    if _is_cut_off(content):
        raise DataError(f"{name} is cut off: its end is missing; copy the file again or remove it")
    try:
        image: Pixels | None = cv2.imdecode(np.frombuffer(content, np.uint8), _FLAGS) if content else None
    except cv2.error:
        image = None
    if image is None:
        raise DataError(f"{name} does not decode as an image; replace or remove the file")
    return image


def probe_size(content: bytes, name: str) -> tuple[int, int]:
    """Return (width, height) of the stored pixels of JPEG or PNG bytes, from the header alone.

    Raises:
        DataError: the bytes are not a JPEG or PNG.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as header:
            return header.size
    except Image.DecompressionBombError:
        raise DataError(f"{name} has too many pixels; cut it into smaller images") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise DataError(f"{name} is not a JPEG or PNG image; convert or remove the file") from None


def probe_orientation(content: bytes) -> int:
    """Return the EXIF orientation of JPEG or PNG bytes: 1 upright, 2 to 8 turned or mirrored when shown."""
    if b"Exif" not in content and b"eXIf" not in content:
        return 1
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as header:
            found = header.getexif().get(_ORIENTATION, 1)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return 1
    return found if found in range(2, 9) else 1


def _is_cut_off(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker; OpenCV would fill the missing part with grey."""
    if content.startswith(_JPEG_START):
        # Compressed data never holds these two pairs, so an end before the last scan is a thumbnail's.
        return content[-2:] != _JPEG_END and content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)
    if content.startswith(_PNG_START):
        return _PNG_END not in content[-1024:] and content.rfind(_PNG_END) < 0
    return False
