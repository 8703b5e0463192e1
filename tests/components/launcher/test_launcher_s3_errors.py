"""What a user is told when a stage's S3 workspace is of no use, against a real server."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.s3_server import BUCKET, READER_KEY, READER_SECRET, S3Server, free_ports
from tests.s3_server import s3_server as run_server

Set = Callable[[str, str], None]


def wrong_secret(set_: Set) -> None:
    set_("AWS_SECRET_ACCESS_KEY", "wrong")


def wrong_key(set_: Set) -> None:
    set_("AWS_ACCESS_KEY_ID", "nobody")


def may_only_read(set_: Set) -> None:
    set_("AWS_ACCESS_KEY_ID", READER_KEY)
    set_("AWS_SECRET_ACCESS_KEY", READER_SECRET)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wrong_secret, "refuses these credentials"),
        (wrong_key, "refuses these credentials"),
        (may_only_read, "refuses these credentials (AccessDenied)"),
    ],
)
def test_credentials(
    change: Callable[[Set], None],
    said: str,
    prefix: str,
    launch: Any,
    stages: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said before the stage works."""
    change(monkeypatch.setenv)
    done = launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}")
    assert done.code == 2
    assert said in done.complaint and prefix in done.complaint
    assert stages.calls == []


def test_a_bucket_that_is_not_there(prefix: str, launch: Any) -> None:
    done = launch("dataset", "--workspace", f"s3://nobody-made-this/{prefix}")
    assert done.code == 2
    assert "no such bucket" in done.complaint


def test_a_server_that_is_down(prefix: str, launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        done = launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}")
    assert done.code == 3
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "does not answer" in last
    assert time.monotonic() - began < 20


def test_a_profile_serves_as_well(
    s3: S3Server, prefix: str, launch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Endpoint, region and credentials from the files of a profile, nothing of the environment."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        f"[profile mine]\nregion = eu-central-1\nendpoint_url = {s3.endpoint}\n"
        "s3 =\n  addressing_style = path\n"
    )
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    done = launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}")
    assert done.code == 0, done.err


def test_a_store_with_a_certificate_of_its_own(
    s3: S3Server, prefix: str, launch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_ports(1)[0]
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    flags = (f"-s3.port.https={port}", f"-s3.cert.file={certificate}", f"-s3.key.file={key}")
    with run_server(tmp_path / "server", flags=flags):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
        refused = launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}")
        assert refused.code == 2
        assert "certificate verify failed" in refused.complaint
        assert "set AWS_CA_BUNDLE to the store's certificates" in refused.complaint
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        assert launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}").code == 0


class TestInputs:
    """What ``validate`` says of a workspace where ``dataset`` has run and something was changed since."""

    @pytest.fixture
    def validate(self, s3: S3Server, prefix: str, launch: Any) -> Callable[..., Any]:
        """Change the manifest or an object, then run ``validate``."""
        place = f"s3://{BUCKET}/{prefix}"
        client, manifest = s3.client(), f"{prefix}/_manifests/dataset.json"
        assert launch("dataset", "--workspace", place).code == 0

        def run(change: Callable[[dict[str, Any]], object] | None = None, **objects: bytes) -> Any:
            if change is not None:
                content = json.loads(client.get_object(Bucket=BUCKET, Key=manifest)["Body"].read())
                change(content)
                client.put_object(Bucket=BUCKET, Key=manifest, Body=json.dumps(content).encode())
            for name, body in objects.items():
                client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body)
            return launch("validate", "--workspace", place)

        return run

    @pytest.mark.parametrize("body", [b"imagE", b"image and more", b"im"])
    def test_an_object_that_was_changed(self, validate: Any, stages: Any, body: bytes) -> None:
        done = validate(**{"data/dataset/images/1.jpg": body})
        assert done.code == 1
        assert "images/1.jpg differs from its manifest; delete _manifests/dataset.json" in done.complaint
        assert stages.calls == ["dataset"]

    def test_manifests_that_are_of_no_use(self, validate: Any) -> None:
        done = validate(lambda manifest: manifest.update(format=99))
        assert done.code == 1
        assert "_manifests/dataset.json has another format; run that stage again" in done.complaint
        done = validate(lambda manifest: manifest.update(format=1, outputs={"data/dataset/x": {"size": "y"}}))
        assert done.code == 1
        assert "_manifests/dataset.json is damaged; delete it and run that stage again" in done.complaint
        done = validate(**{"_manifests/dataset.json": b"{half"})
        assert done.code == 1
        assert "_manifests/dataset.json is damaged" in done.complaint

    def test_names_that_lead_out_of_the_scratch_folder(self, validate: Any, workspace: Path) -> None:
        def change(manifest: dict[str, Any]) -> None:
            record = manifest["outputs"].pop("data/dataset/images/1.jpg")
            manifest["outputs"]["data/dataset/../../../../caught"] = record

        done = validate(change)
        assert done.code == 1
        assert "leaves its folder" in done.complaint
        assert not list(workspace.rglob("caught"))

    def test_no_room_for_them(self, validate: Any) -> None:
        done = validate(
            lambda manifest: manifest["outputs"]["data/dataset/images/1.jpg"].update(size=1 << 60)
        )
        assert done.code == 3
        assert "GiB free, the inputs take 1073741824.0 GiB; make room" in done.complaint


def test_a_disk_that_is_full(prefix: str, launch: Any, stages: Any, workspace: Path) -> None:
    def fill() -> None:
        Path("/dev/full").write_bytes(b"x")

    stages.hook = fill
    done = launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}")
    assert done.code == 3
    assert f"{workspace / 'tmp'}: {os.strerror(errno.ENOSPC)}; make room" in done.complaint
    assert not list((workspace / "tmp").iterdir())
    stages.hook = None
    assert launch("dataset", "--workspace", f"s3://{BUCKET}/{prefix}").code == 0
