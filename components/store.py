"""Which MLflow a run is tracked in, and whether it answers. Standard library only.

The check comes before the first import of MLflow and before a stage works: MLflow's own patience with a
server that is down is several minutes.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from yolo_core.errors import UnreachableError, UsageError

SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_ATTEMPTS = 2
_TIMEOUT_SECONDS = 5.0
_GATEWAY_ERRORS = (502, 503, 504)  # a proxy answers in place of the server


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Section ``tracking`` of params.yaml.

    ``uri`` is MLflow's address (http://, https://, sqlite:/// or another database); null means
    $MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db`` in the workspace. ``experiment`` is the name
    under which all runs are filed.
    """

    uri: str | None
    experiment: str

    def __post_init__(self) -> None:
        """Refuse an empty experiment name."""
        if not self.experiment.strip():
            raise ValueError("experiment must not be empty")


def resolve_uri(config: TrackingConfig, root: Path) -> str:
    """Return the address to track in, absolute.

    A relative SQLite path is taken from ``root``, the workspace, so that the store does not follow
    the working directory as MLflow's default does.

    Raises:
        UsageError: the address is of a kind that cannot serve (a folder of files, for one).
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme == "sqlite":
        if not uri.startswith(SQLITE) or uri == SQLITE:
            raise UsageError(f"MLflow address {uri} must be sqlite:///PATH")
        return SQLITE + str((root / uri.removeprefix(SQLITE)).resolve())
    if scheme in ("http", "https") or scheme in DATABASE_PORTS:
        if not urlsplit(uri).hostname:
            raise UsageError(f"MLflow address {redacted(uri)} names no host")
        return uri.rstrip("/")
    raise UsageError(
        f"MLflow address {redacted(uri)} is not supported; set tracking.uri or MLFLOW_TRACKING_URI to "
        "http://HOST:PORT or sqlite:///PATH"
    )


def redacted(uri: str) -> str:
    """Return the address without the user name and password that it may hold."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]).geturl()


def check_answers(uri: str) -> None:
    """Make sure that something answers at the address; takes at most 11 seconds.

    Raises:
        UnreachableError: nothing does.
        UsageError: a SQLite file's folder is missing.
    """
    if uri.startswith(SQLITE):
        folder = Path(uri.removeprefix(SQLITE)).parent
        if not folder.is_dir():
            raise UsageError(f"MLflow address {uri}: folder {folder} is missing; make it first")
        return
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(1.0)
        reason = _try_once(uri)
        if not reason:
            return
    raise UnreachableError(
        f"MLflow at {redacted(uri)} does not answer ({reason}); "
        "start it, or set tracking.uri or MLFLOW_TRACKING_URI"
    )


def _try_once(uri: str) -> str:
    """Return why the server cannot be reached, or an empty string."""
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            with urlopen(f"{uri}/health", timeout=_TIMEOUT_SECONDS) as reply:
                reply.read(64)
        else:
            port = parts.port or DATABASE_PORTS[parts.scheme.split("+")[0]]
            socket.create_connection((str(parts.hostname), port), _TIMEOUT_SECONDS).close()
    except HTTPError as error:
        return f"HTTP {error.code}" if error.code in _GATEWAY_ERRORS else ""
    except URLError as error:
        return _words(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return _words(error)
    return ""


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "timed out"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return str(reason) or type(reason).__name__
