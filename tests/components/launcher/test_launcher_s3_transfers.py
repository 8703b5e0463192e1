"""Transfers to S3 and back: parts, damage, and a server that goes away, against a real server."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from components import bucket as module
from components import s3_client
from components.bucket import Bucket, open_bucket
from tests.s3_server import BUCKET, S3Server
from tests.s3_server import s3_server as run_server
from yolo_core.digest import record_of
from yolo_core.errors import UnreachableError

MIB = 1 << 20
LARGE = "large.tar"


@pytest.fixture
def place(s3: Any) -> Bucket:
    return open_bucket(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three parts, the last a short one, and small files, one of them empty."""
    monkeypatch.setattr(module, "_PART", 5 * MIB)  # S3 takes no smaller ones
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    (folder / LARGE).write_bytes(random.bytes(12 * MIB))
    for number in range(30):
        (folder / "images" / f"{number}.jpg").write_bytes(random.bytes(1000 * number))
    return folder


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def test_large_files_travel_in_parts(s3: S3Server, place: Bucket, source: Path, tmp_path: Path) -> None:
    files = place.upload(source, names(source))
    assert files == {name: record_of(source / name) for name in names(source)}
    there = place.objects()
    assert there[LARGE].etag.endswith('-3"')
    assert not there["images/1.jpg"].etag.endswith('-1"')
    asked: list[str | None] = []
    place.client.meta.events.register(
        "before-call.s3.GetObject", lambda params, **_: asked.append(params["headers"].get("Range"))
    )
    assert place.download(tmp_path / "target", files) == []
    assert {name: record_of(tmp_path / "target" / name) for name in files} == files
    parts = [f"bytes={5 * MIB * n}-{end - 1}" for n, end in enumerate((5 * MIB, 10 * MIB, 12 * MIB))]
    assert sorted(word for word in asked if word) == sorted(parts)
    assert len(asked) == 33  # one request for each small file


def test_the_server_checks_what_it_gets(s3: S3Server, place: Bucket, source: Path) -> None:
    place.upload(source, ["images/7.jpg"])
    key = f"{place.prefix}/images/7.jpg"
    head = s3.client().head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"]
    with pytest.raises(ClientError, match="BadDigest"):
        s3.client().put_object(
            Bucket=BUCKET, Key=key, Body=b"damaged on its way", ChecksumCRC32=head["ChecksumCRC32"]
        )


def test_damaged_objects_are_named(s3: S3Server, place: Bucket, source: Path, tmp_path: Path) -> None:
    """Another content of the same size, a shorter one, a longer one, none; in small and large files."""
    names_now = [LARGE, "second.tar", "third.tar", *(f"images/{number}.jpg" for number in range(5, 9))]
    for name in ("second.tar", "third.tar"):
        (source / name).write_bytes((source / LARGE).read_bytes())
    files = place.upload(source, names_now)
    content = bytearray((source / LARGE).read_bytes())
    content[-1] ^= 1
    bad = {
        LARGE: bytes(content),
        "second.tar": bytes(content[: 6 * MIB]),
        "third.tar": bytes(content) + b"more",
        "images/5.jpg": bytes(5000),
        "images/6.jpg": b"short",
    }
    for name, body in bad.items():
        s3.client().put_object(Bucket=BUCKET, Key=f"{place.prefix}/{name}", Body=body)
    place.delete(["images/7.jpg"])
    assert place.download(tmp_path / "target", files) == [*bad, "images/7.jpg"]


def test_a_broken_download_goes_on_at_its_byte(
    place: Bucket, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection gives one chunk and breaks, also after the last one."""
    from botocore.exceptions import ResponseStreamingError
    from botocore.response import StreamingBody

    files = place.upload(source, [LARGE])
    plain, given = StreamingBody.iter_chunks, []

    def one_chunk(self: StreamingBody, size: int) -> Iterator[bytes]:
        chunk = next(iter(plain(self, size)))
        given.append(len(chunk))
        yield chunk
        raise ResponseStreamingError(error="cut")

    monkeypatch.setattr(StreamingBody, "iter_chunks", one_chunk)
    assert place.download(tmp_path / "target", files) == []
    assert sum(given) == 12 * MIB  # nothing came twice


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that tests may kill."""
    with run_server(tmp_path_factory.mktemp("mortal")) as server:
        yield server


class TestServerGoesAway:
    """It is killed in mid-transfer."""

    @pytest.fixture
    def bucket(self, server: S3Server, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        return open_bucket(f"s3://{BUCKET}/{uuid.uuid4().hex}")

    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        """40 MB in small files and a large one."""
        folder = tmp_path / "many"
        folder.mkdir()
        random = np.random.default_rng(0)
        for number in range(100):
            (folder / f"{number}.jpg").write_bytes(random.bytes(200_000))
        (folder / LARGE).write_bytes(random.bytes(20_000_000))
        return folder

    def interrupt(self, server: S3Server, work: Callable[[], Any], begun: Callable[[], bool]) -> list[Any]:
        """Kill the server once the work has begun, start it again; return what the work does."""
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
        deadline = time.monotonic() + 30
        while not begun():
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.02)
        server.kill()
        assert thread.is_alive()
        time.sleep(1)
        assert thread.is_alive()
        server.start()
        thread.join(60)
        return found

    def test_and_comes_back(
        self, server: S3Server, bucket: Bucket, many: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        files = {name: record_of(many / name) for name in names(many)}
        target = tmp_path / "target"
        up = self.interrupt(server, lambda: bucket.upload(many, files), lambda: len(bucket.objects()) > 10)
        assert up == [files]
        target.mkdir()
        down = self.interrupt(
            server, lambda: bucket.download(target, files), lambda: len(list(target.iterdir())) > 20
        )
        assert down == [[]]
        told = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
        assert 1 <= len(told) <= 2  # not a line for each of many threads
        assert "S3 " in told[0] and bucket.uri.rsplit("/", 1)[0] in told[0]

    def test_for_good(
        self, server: S3Server, bucket: Bucket, many: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket.upload(many, ["1.jpg"])
        monkeypatch.setattr(s3_client, "_WAIT", 1.0)
        server.kill()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer"):
            bucket.upload(many, names(many))
        with pytest.raises(UnreachableError, match="does not answer"):
            bucket.download(many.parent, {"1.jpg": record_of(many / "1.jpg")})
        assert time.monotonic() - began < 15


def test_what_is_of_no_use_is_not_tried_again(
    place: Bucket, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    """A missing object, and a bucket that is gone."""
    began = time.monotonic()
    assert place.read_json("absent.json") is None
    other = Bucket(client=place.client, name="nobody-made-this", prefix="")
    with pytest.raises(Exception, match="no such bucket"):
        other.upload(source, names(source))
    assert time.monotonic() - began < 5


def test_a_store_that_is_overloaded_is_given_time() -> None:
    """What real servers answer then; this one cannot be brought to it."""
    patience = s3_client.Patience("s3://work/x")
    request: dict[str, Any] = {"context": {}}

    def pause(attempts: int, status: int, code: str, name: str = "PutObject") -> float | None:
        return patience(
            attempts=attempts,
            operation=type("Operation", (), {"name": name}),
            request_dict=request,
            response=(type("Response", (), {"status_code": status}), {"Error": {"Code": code}}),
            caught_exception=None,
        )

    for status, code in ((503, "SlowDown"), (500, "InternalError"), (429, "x"), (400, "RequestTimeout")):
        first, fourth, late = (pause(attempts, status, code) for attempts in (1, 4, 30))
        assert first is not None and fourth is not None and late is not None
        assert 0.1 <= first <= 0.2 and 0.8 <= fourth <= 1.6 and 4 <= late <= 8
    for status, code in ((403, "AccessDenied"), (404, "NoSuchBucket"), (501, "NotImplemented"), (200, "")):
        assert pause(1, status, code) is None
    request["context"]["failing_since"] -= s3_client._WAIT
    assert pause(5, 503, "SlowDown") is None
