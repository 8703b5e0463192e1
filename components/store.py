"""Which MLflow to use, whether it answers, and the connection to it.

The check needs the standard library only and comes before the first import of MLflow and before a
stage works: MLflow's own patience with a server that is down is several minutes.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from yolo_core.errors import UnreachableError, UsageError

SQLITE = "sqlite:///"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
_ENVIRONMENT_TURN = threading.RLock()
_TIMEOUT_SECONDS = 7.0
_QUICK_SECONDS = 2.0
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
    """Make sure that something answers at the address; takes at most 15 seconds.

    Raises:
        UnreachableError: nothing does.
        UsageError: a SQLite file's folder is missing.
    """
    if uri.startswith(SQLITE):
        folder = Path(uri.removeprefix(SQLITE)).parent
        if not folder.is_dir():
            raise UsageError(f"MLflow address {uri}: folder {folder} is missing; make it first")
        return
    started = time.monotonic()
    reason = _try_once(uri)
    if reason and time.monotonic() - started < _QUICK_SECONDS:
        time.sleep(1.0)  # a server that is just starting refuses at once
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


def connect(config: TrackingConfig, root: Path, *, create: bool = True) -> Any:
    """Return an `mlflow.MlflowClient` of the configured store, and make it MLflow's current one.

    ``create`` lets a SQLite file be made that is not there yet.

    Raises:
        UnreachableError: the server does not answer; after at most 15 seconds.
        UsageError: the address cannot serve.
    """
    uri = resolve_uri(config, root)
    check_answers(uri)
    if not create and uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise UsageError(f"no MLflow database at {uri.removeprefix(SQLITE)}; set tracking.uri or --workspace")
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    import mlflow

    # The lock: two processes that make the tables at once fail, in spite of MLflow's own lock.
    with mlflow_errors(uri), few_retries(), store_lock(uri):
        _make_current(uri)
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    return client


def _make_current(uri: str) -> None:
    """Make MLflow's functions use a store, but leave $MLFLOW_TRACKING_URI, which is the user's, as it was."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def load_pyfunc(model_uri: str) -> Any:
    """Load a pyfunc model such as ``models:/NAME@champion`` from the store `connect` chose.

    Raises:
        UsageError: there is no such model, version or alias.
        UnreachableError: MLflow or its artifacts do not answer.
    """
    import mlflow

    with mlflow_errors(mlflow.get_tracking_uri(), missing=f"no model at {model_uri}"):
        return mlflow.pyfunc.load_model(model_uri)


def download(uri: str, folder: Path) -> Path:
    """Download what ``models:/...`` or ``runs:/...`` names from the store `connect` chose; returns its path.

    Raises:
        UsageError: there is no such model, version, alias, run or artifact.
        UnreachableError: MLflow or its artifacts do not answer.
    """
    import mlflow

    place = mlflow.get_tracking_uri()
    try:
        with mlflow_errors(place, missing=f"nothing at {uri}"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except OSError as error:
        raise UsageError(f"nothing at {uri} in MLflow at {redacted(place)}: {error}") from error


@contextmanager
def mlflow_errors(uri: str, *, missing: str = "") -> Iterator[None]:
    """Turn MLflow's errors about the store into this project's.

    ``missing`` is the message for something that is not there; without it such an error passes on.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = " ".join(str(error).split())
        place = redacted(uri)
        if any(f"error code {code}" in text for code in (401, 403)):
            raise UsageError(
                f"MLflow at {place} refuses this user; "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            ) from error
        if "out-of-date database schema" in text:
            raise UsageError(
                f"MLflow database {place} is of another MLflow version: mlflow db upgrade {place}"
            ) from error
        if text.startswith("API request to") or "OperationalError" in text:
            raise UnreachableError(f"MLflow at {place} stopped answering: {text[:160]}") from error
        if missing and error.error_code in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
            "NOT_FOUND",
        ):
            raise UsageError(f"{missing} in MLflow at {place}: {text[:160]}") from error
        raise


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a registered model says of a wrong image or param into a `UsageError`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UsageError(" ".join(str(error).split())[:300]) from error


@contextmanager
def few_retries(*, seconds: int = 15) -> Iterator[None]:
    """Let calls of MLflow fail soon, after one retry of at most so many seconds; what the user set stays.

    MLflow reads both from the environment at each call, so blocks in several threads take turns.
    """
    ours = {_RETRIES: "1", _TIMEOUT: str(seconds)}
    with _ENVIRONMENT_TURN:
        before = {key: os.environ.get(key) for key in ours}
        os.environ.update({key: before[key] or value for key, value in ours.items()})
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Hold the lock of a SQLite store's folder; with a server there is nothing to lock."""
    if not uri.startswith(SQLITE):
        yield
        return
    folder = artifact_folder(uri)
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def artifact_folder(uri: str) -> Path:
    """Return the folder for the artifacts of a SQLite store: beside its file."""
    return Path(uri.removeprefix(SQLITE)).parent / "mlartifacts"
