"""Where MLflow is, and whether it answers: without importing MLflow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.store import TrackingConfig, check_answers, redacted, resolve_uri
from yolo_core.errors import UnreachableError, UsageError


def config(uri: str | None = None) -> TrackingConfig:
    return TrackingConfig(uri=uri, experiment="x")


def test_default_is_an_absolute_sqlite_file_in_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(config(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000/")
    assert resolve_uri(config(), tmp_path) == "http://tracker:5000"
    assert resolve_uri(config("sqlite:///sub/own.db"), tmp_path) == f"sqlite:///{tmp_path}/sub/own.db"
    assert resolve_uri(config("sqlite:////abs/own.db"), tmp_path) == "sqlite:////abs/own.db"


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "ftp://host", "sqlite://", "http://", "databricks"]
)
def test_addresses_that_cannot_serve(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError, match="MLflow address"):
        resolve_uri(config(uri), tmp_path)


def test_an_empty_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="experiment"):
        TrackingConfig(uri=None, experiment=" ")


def test_secrets_are_not_shown() -> None:
    assert redacted("postgresql://me:secret@db:5432/x") == "postgresql://***@db:5432/x"
    assert redacted("http://host:1/x") == "http://host:1/x"
    with pytest.raises(UnreachableError) as caught:
        check_answers("http://me:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_refused_connection(scheme: str) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="connection refused"):
            check_answers(f"{scheme}://127.0.0.1:{taken.getsockname()[1]}")
    assert time.monotonic() - start < 15


def test_a_server_that_accepts_and_is_silent() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        start = time.monotonic()
        with pytest.raises(UnreachableError, match="timed out"):
            check_answers(f"http://127.0.0.1:{hole.getsockname()[1]}")
    assert time.monotonic() - start < 15


def test_a_database_that_listens_is_enough() -> None:
    with socket.socket() as open_port:
        open_port.bind(("127.0.0.1", 0))
        open_port.listen()
        check_answers(f"mysql+pymysql://u:p@127.0.0.1:{open_port.getsockname()[1]}/mlflow")


@pytest.mark.parametrize(
    ("status", "reachable"), [(200, True), (401, True), (404, True), (502, False), (503, False)]
)
def test_a_gateway_without_a_server_behind_it(status: int, reachable: bool) -> None:
    with web_server(status) as address:
        if reachable:
            check_answers(address)
        else:
            with pytest.raises(UnreachableError, match=f"HTTP {status}"):
                check_answers(address)


def test_missing_folder_of_a_sqlite_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is missing; make it first"):
        check_answers(f"sqlite:///{tmp_path}/none/mlflow.db")


@contextmanager
def web_server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
