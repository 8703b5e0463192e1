"""A real S3 server for tests: SeaweedFS as a process, which can be killed and started again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEY, SECRET = "test-key", "test-secret"
READER_KEY, READER_SECRET = "reader-key", "reader-secret"
BUCKET = "work"
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
START_SECONDS = 60.0


@dataclass(kw_only=True)
class S3Server:
    """A server whose data is in ``folder``; ``ports`` has those of `PORTS`, all on loopback.

    ``key`` may do everything, `READER_KEY` only read and list. ``flags`` are given to the program beside its
    usual ones. What was written outlives `kill`.
    """

    folder: Path
    key: str = KEY
    secret: str = SECRET
    ports: dict[str, int] = field(
        default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    )
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    used: bool = False

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.ports['s3']}"

    def client(self) -> Any:
        """Return a boto3 client that may do everything and tries nothing twice."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=20),
        )

    def start(self) -> None:
        """Start it and wait until the bucket `BUCKET` takes objects."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, without waiting."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "s3.json").write_text(json.dumps({"identities": self._identities()}), encoding="utf-8")
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [find_weed() or "weed", "-logtostderr=true", "server", *self._flags()],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def kill(self) -> None:
        """End it at once; nothing happens if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait_until_ready(self) -> None:
        """Write and read an object, which succeeds only once every part of the server is up."""
        from botocore.exceptions import BotoCoreError, ClientError

        client, log = self.client(), self.folder / "log"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None and self.process.poll() is None, log.read_text()[-2000:]
            try:
                if self.used:  # what was written before a restart is the last to come back
                    client.get_object(Bucket=BUCKET, Key="ready")["Body"].read()
                elif BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
                self.used = True
            except (BotoCoreError, ClientError):
                time.sleep(0.3)
            else:
                return
        raise AssertionError(log.read_text()[-2000:])

    def _identities(self) -> list[dict[str, Any]]:
        granted = ((self.key, self.secret, ["Admin"]), (READER_KEY, READER_SECRET, ["Read", "List"]))
        return [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for key, secret, actions in granted
        ]

    def _flags(self) -> list[str]:
        flags = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder}/data"]
        flags += [f"-s3.config={self.folder}/s3.json", "-s3.autoCreateBucket=false", "-filer", "-s3"]
        flags += ["-volume.max=40", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        flags += ["-master.electionTimeout=1s"]  # else a second start takes 13 s and more
        flags += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        for name, port in self.ports.items():
            part, _, kind = name.partition(".")
            flags.append(f"-{part}.port{'.' + kind if kind else ''}={port}")
        return [*flags, *self.flags]


@contextmanager
def s3_server(folder: Path, **options: Any) -> Iterator[S3Server]:
    """Run a server with its data in ``folder``; ``options`` are those of `S3Server`."""
    server = S3Server(folder=folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()  # it holds nothing worth ten seconds of an orderly shutdown


def find_weed() -> str | None:
    """Return the path of the server's program: on PATH, in this environment, or in the project's main one."""
    main = Path(__file__).resolve().parents[1] / ".venv" / "bin"
    folders = (os.environ.get("PATH", ""), str(Path(sys.executable).parent), str(main))
    return shutil.which("weed", path=os.pathsep.join(folders))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has; all are held until all are found."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
