"""Pictures in the forms that callers have them, from this process or over a network, to pixels.

What comes over a network is not trusted: nothing is fetched or read from the disk for it, and the size that
a file claims is looked at before anything is decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolo_core.data.images import Pixels, decode_image, probe_size, read_image
from yolo_core.errors import DataError

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_SHOWN = 60  # characters of a wrong input in a message
_DEEP_MODES = ("I", "F")  # of Pillow: more than 8 bits per channel


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRules:
    """What is taken.

    Attributes:
        allow_paths: whether a text may be the path of a file; a `Path`, which no request over a network can
            hold, always may.
        max_pixels: width times height that an encoded picture may have.
    """

    allow_paths: bool = False
    max_pixels: int = 50_000_000


_DEFAULTS = InputRules()


def to_pixels(item: Any, name: str, rules: InputRules = _DEFAULTS) -> Pixels:
    """Turn a picture into (H, W, 3) BGR uint8.

    Args:
        item: JPEG or PNG bytes; the same as base64 text, also as a data: URL; a `Path`; a Pillow image; an
            (H, W, 3) BGR or (H, W) grey uint8 array.
        name: what errors call it.
        rules: what is taken.

    Raises:
        DataError: it is none of these, is broken or too large; or it is the URL or path of a file.
    """
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decode(bytes(item), name, rules)
    if isinstance(item, np.ndarray):
        return _from_array(item, name)
    if isinstance(item, Image.Image):
        return _from_pillow(item, name)
    if isinstance(item, Path):
        return read_image(item)
    if isinstance(item, str):
        return _from_text(item, name, rules)
    raise DataError(
        f"{name} is a {type(item).__name__}; give JPEG or PNG bytes, base64, a Path, a Pillow image or a "
        "uint8 array"
    )


def _decode(content: bytes, name: str, rules: InputRules) -> Pixels:
    if not content:
        raise DataError(f"{name} is empty")
    width, height = probe_size(content, name)
    if width * height > rules.max_pixels:
        raise DataError(f"{name} has {width} x {height} pixels, over the limit of {rules.max_pixels}")
    return decode_image(content, name)


def _from_text(text: str, name: str, rules: InputRules) -> Pixels:
    prefix = _DATA_URL.match(text)
    if prefix is None and _URL.match(text):
        raise DataError(f"{name} is a URL, and nothing is fetched: send the file's content as base64")
    if rules.allow_paths and _is_file(text):
        return read_image(Path(text))
    encoded = text[prefix.end() if prefix else 0 :]
    try:
        # Tools wrap base64 into lines.
        return _decode(base64.b64decode("".join(encoded.split()), validate=True), name, rules)
    except (binascii.Error, ValueError):
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        kinds = "neither a file nor base64" if rules.allow_paths else "not base64, and paths are not read"
        raise DataError(f"{name} is {kinds}: {shown!r}") from None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a path may be, or with a zero byte
        return False


def _from_array(array: np.ndarray[Any, Any], name: str) -> Pixels:
    if array.dtype != np.uint8 or array.size == 0:
        raise DataError(
            f"{name}: an array must be uint8 and not empty, not {array.dtype} of shape {array.shape}"
        )
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise DataError(f"{name}: an array must be (H, W, 3) BGR or (H, W) grey, not of shape {array.shape}")
    pixels: Pixels = np.ascontiguousarray(array)
    return pixels


def _from_pillow(image: Image.Image, name: str) -> Pixels:
    if image.mode.startswith(_DEEP_MODES):
        raise DataError(f"{name} has mode {image.mode}; convert it to RGB, 8 bits per channel")
    try:
        rgb = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes only now
        raise DataError(f"{name} does not decode as an image ({error})") from None
    return _from_array(rgb[..., ::-1], name)
