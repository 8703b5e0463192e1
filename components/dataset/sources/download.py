"""Large files over HTTP: resumed where a transfer broke, and checked by their digest."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from yolo_core.errors import DataError, UnreachableError, UsageError

_LOGGER = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60.0
_ATTEMPTS = 4  # in a row that bring nothing new
_PAUSE_SECONDS = 0.5  # before the second attempt; doubles
_RANGE_REFUSED = 416


def download(url: str, target: Path, md5: str) -> Path:
    """Bring a file here, unless it is there, and return its path.

    What a broken transfer brought stays in ``TARGET.part``: this call goes on from there by HTTP ranges,
    and so does one of another day. A server that knows no ranges is asked for the whole.

    Args:
        url: http:// or https:// address.
        target: where to; it appears only once it is complete and right.
        md5: hexadecimal digest that it must have.

    Raises:
        UsageError: the server has no such file.
        UnreachableError: it does not answer, or breaks off time and again.
        DataError: the file has another digest; it is deleted.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures, pause = 0, _PAUSE_SECONDS
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, part, before):
                break
            reason = "the transfer broke off"
        except (OSError, http.client.HTTPException) as error:
            _raise_if_final(url, error)
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= _ATTEMPTS:
            raise UnreachableError(f"{url} does not answer ({reason}); run again: {after:,} bytes are kept")
        _LOGGER.info("%s: %s at %s bytes, going on", url, reason, f"{after:,}")
        if failures:
            time.sleep(pause)
            pause *= 2
    _check(url, part, md5)
    part.rename(target)
    return target


def _receive(url: str, part: Path, start: int) -> bool:
    """Append what is missing from byte ``start`` on; whether the file is complete now."""
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        reply = urlopen(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != _RANGE_REFUSED or not start:
            raise
        # Nothing is left to send if the part is the whole; else it is of another file.
        whole = error.headers.get("Content-Range", "").rpartition("/")[2]
        if whole != str(start):
            part.unlink()
        return whole == str(start)
    with reply:
        resumed = reply.status == http.client.PARTIAL_CONTENT
        length = reply.headers.get("Content-Length")
        received = 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := reply.read1(_CHUNK):
                file.write(chunk)
                received += len(chunk)
    return length is None or received == int(length)


def _raise_if_final(url: str, error: Exception) -> None:
    """Raise what trying again would not change: a full disk, a missing file, a name that no one has."""
    if isinstance(error, HTTPError):
        if error.code in (408, 429) or error.code >= 500:
            return
        raise UsageError(
            f"{url}: the server answers {error.code} {error.reason}; correct the address"
        ) from None
    if not isinstance(error, (URLError, TimeoutError, ConnectionError, http.client.HTTPException)):
        raise error


def _check(url: str, part: Path, md5: str) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        part.unlink()
        raise DataError(
            f"{url} has the MD5 digest {found}, not {md5}; it was deleted, run again or choose another mirror"
        )
