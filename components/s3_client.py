"""An S3 client that waits for a store that is away for a while, and whose errors are the project's.

Endpoint, region and credentials are found as by any AWS client: environment, profile and its files, role of
the container or the pod. So are AWS_CA_BUNDLE and the way of addressing buckets.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yolo_core.errors import DataError, UnreachableError, UsageError

THREADS = 16
"""Requests at a time."""

ABSENT = ("404", "NoSuchKey", "NotFound")
_REFUSED = (
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
)
_CHANGED_TEXT = "{} changed while it was read; run again"
_CHANGED = ("412", "PreconditionFailed", "416", "InvalidRange")
# What the next try may be spared, beside the status codes 429 and 5xx.
_PASSING = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "BadDigest", "IncompleteBody")
_NOT_IMPLEMENTED = 501

_WAIT = 60.0  # seconds for which a request is sent again
_WAIT_AT_OPENING = 5.0  # a store that nobody has seen yet is more likely a wrong address
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 8.0
_TOLD_FROM = 1.0  # a pause this long is worth a line

_log = logging.getLogger(__name__)


class Patience:
    """Says after how many seconds a failed request is sent again; takes botocore's event ``needs-retry``.

    botocore's own rule counts tries, and gives all threads of a client one small stock, which a server
    that restarts uses up before it is back. This one counts time. Pauses double, and are shortened at random
    so that threads don't come back all at once.
    """

    def __init__(self, uri: str) -> None:
        """Take the address that messages name."""
        self._uri = uri
        self._lock = threading.Lock()
        self._told = float("-inf")

    def __call__(
        self,
        *,
        attempts: int,
        operation: Any,
        request_dict: Mapping[str, Any],
        response: tuple[Any, Mapping[str, Any]] | None,
        caught_exception: Exception | None,
        **_: Any,
    ) -> float | None:
        """Return seconds, or None if trying again is of no use, or was done for long enough."""
        reason = _passing_reason(response, caught_exception)
        if reason is None:
            return None
        now = time.monotonic()
        limit = _WAIT_AT_OPENING if operation.name == "HeadBucket" else _WAIT
        left = limit - (now - request_dict["context"].setdefault("failing_since", now))
        if left <= 0:
            return None
        pause: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)
        if pause >= _TOLD_FROM:
            self._tell(f"{self._uri}: {reason}; trying again for {left:.0f} s", now)
        return float(min(pause, left))

    def _tell(self, text: str, now: float) -> None:
        with self._lock:
            if now - self._told > _WAIT:  # once, for all threads that wait
                self._told = now
                _log.warning(text)


def new_client(uri: str) -> Any:
    """Return a boto3 client; ``uri`` is what messages name."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"total_max_attempts": 1, "mode": "standard"},  # see `Patience`
        max_pool_connections=2 * THREADS,
    )
    session = boto3.session.Session()
    region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
    try:
        client = session.client("s3", region_name=region, config=config)
    except ValueError as error:  # a malformed endpoint
        raise UsageError(f"{uri}: {error}") from error
    client.meta.events.register_last("needs-retry.s3", Patience(uri))
    return client


@contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn botocore's errors into this project's, in one line."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
    from s3transfer.exceptions import S3DownloadFailedError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError):
        raise UsageError(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except ClientError as error:
        raise _answer_error(uri, error_code(error)) from error
    except S3DownloadFailedError as error:
        raise DataError(_CHANGED_TEXT.format(uri)) from error
    except RetriesExceededError as error:
        raise UnreachableError(f"{uri}: the transfer broke again and again; run again") from error
    except BotoCoreError as error:
        raise _transport_error(uri, error) from error


def error_code(error: Any) -> str:
    """Return what the store calls the error of a `ClientError`."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _answer_error(uri: str, code: str) -> Exception:
    if code in _REFUSED:
        return UsageError(f"{uri}: S3 refuses these credentials ({code})")
    if code in ("NoSuchBucket", *ABSENT):
        return UsageError(f"{uri}: no such bucket or object; make the bucket first")
    if code in _CHANGED:
        return DataError(_CHANGED_TEXT.format(uri))
    if code == "NoSuchUpload":
        return UnreachableError(f"{uri}: another run of this stage is uploading there; run again")
    return UnreachableError(f"{uri}: S3 answers {code}")


def _transport_error(uri: str, error: Any) -> Exception:
    from botocore.exceptions import (
        CredentialRetrievalError,
        FlexibleChecksumError,
        MetadataRetrievalError,
        SSLError,
        TokenRetrievalError,
    )

    if isinstance(error, SSLError):
        return UsageError(f"{uri}: {_line(error)}; set AWS_CA_BUNDLE to the store's certificates")
    passing = (CredentialRetrievalError, FlexibleChecksumError, MetadataRetrievalError, TokenRetrievalError)
    if isinstance(error, passing):
        return UnreachableError(f"{uri}: {_line(error)}; run again")
    if _is_silence(error):
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "its endpoint"
        )
        return UnreachableError(f"{uri}: S3 at {endpoint} does not answer ({type(error).__name__})")
    return UsageError(f"{uri}: {_line(error)}")


def _is_silence(error: Exception) -> bool:
    from botocore.exceptions import ConnectionError, HTTPClientError, IncompleteReadError, SSLError

    silent = isinstance(error, (ConnectionError, HTTPClientError, IncompleteReadError))
    return silent and not isinstance(error, SSLError)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _passing_reason(response: tuple[Any, Mapping[str, Any]] | None, error: Exception | None) -> str | None:
    """Say what failed, if it may be over soon."""
    if error is not None:
        return f"S3 does not answer ({type(error).__name__})" if _is_silence(error) else None
    if response is None:
        return None
    status, code = response[0].status_code, response[1].get("Error", {}).get("Code")
    server_fault = status == 429 or (status >= 500 and status != _NOT_IMPLEMENTED)
    return f"S3 answers {code or status}" if server_fault or code in _PASSING else None
