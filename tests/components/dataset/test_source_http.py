"""Archives over HTTP from a server that breaks off, and what COCO 2017 is made of."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from components.dataset.sources import coco2017
from components.dataset.sources import download as module
from components.dataset.sources.download import download
from components.dataset.work import materialise
from yolo_core.errors import DataError, UnreachableError, UsageError

from .conftest import Make, Write

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves files from memory; after ``cut`` bytes of a reply it closes the connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file.zip": CONTENT}
        self.cut = 0
        self.ranges = True
        self.errors = 0  # replies of 503 before it serves
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """GET with ranges."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        content = self.server.files.get(self.path)
        if self.server.errors:
            self.server.errors -= 1
            self.send_error(503)
            return
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cut or len(body)])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)


def test_a_transfer_that_breaks_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut = 70_000
    path = download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, *(f"bytes={70_000 * times}-" for times in range(1, 5))]
    assert [item.name for item in tmp_path.iterdir()] == ["file.zip"]
    download(f"{server.url}/file.zip", path, MD5)
    assert len(server.asked) == 5  # it is there


def test_another_process_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:123_456])
    download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5)
    assert server.asked == ["bytes=123456-"]
    (tmp_path / "file.zip").rename(tmp_path / "file.zip.part")  # killed before the check
    download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5)
    assert server.asked[1:] == ["bytes=300000-"]


def test_a_rest_of_another_file_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(bytes(len(CONTENT) + 5))
    assert download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5).read_bytes() == CONTENT
    (tmp_path / "file.zip").unlink()
    (tmp_path / "file.zip.part").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=f"not {MD5}; it was deleted"):
        download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5)
    assert not list(tmp_path.iterdir())


def test_a_server_without_ranges_sends_the_whole(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    assert download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5).read_bytes() == CONTENT


def test_a_server_that_is_busy_for_a_while(server: Server, tmp_path: Path) -> None:
    server.errors = 2
    assert download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5).read_bytes() == CONTENT


def test_a_server_that_stays_down_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.errors = 99
    (tmp_path / "file.zip.part").write_bytes(CONTENT[:1000])
    with pytest.raises(UnreachableError, match=r"does not answer .*1,000 bytes are kept"):
        download(f"{server.url}/file.zip", tmp_path / "file.zip", MD5)
    assert (tmp_path / "file.zip.part").read_bytes() == CONTENT[:1000]
    with pytest.raises(UnreachableError, match="does not answer"):
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", MD5)


def test_a_file_that_the_server_lacks(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.zip: the server answers 404"):
        download(f"{server.url}/none.zip", tmp_path / "none.zip", MD5)


@pytest.fixture
def mirror(server: Server, coco: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server of archives that are laid out as COCO's; val shows the same pictures as train."""
    root = coco()
    (root / "train2017").rename(root / "both")
    listed = root / "annotations" / "instances_train2017.json"
    for split in ("train", "val"):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            for image in sorted((root / "both").iterdir()):
                archive.write(image, f"{split}2017/{image.name}")
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w") as archive:
        for split in ("train", "val"):
            archive.write(listed, f"annotations/instances_{split}2017.json")
            archive.writestr(f"annotations/captions_{split}2017.json", json.dumps({"images": []}))
    names = {"annotations": "annotations", "zips/val": "val", "zips/train": "train"}
    paths = dict(zip(names.values(), coco2017.ARCHIVES, strict=True))
    server.files = {f"/coco/{path}": (tmp_path / f"{name}.zip").read_bytes() for name, path in paths.items()}
    digests = {path: hashlib.md5(server.files[f"/coco/{path}"]).hexdigest() for path in paths.values()}
    monkeypatch.setattr(coco2017, "ARCHIVES", digests)
    return server


def test_coco2017_comes_whole_from_a_server_that_breaks_off(
    mirror: Server, tmp_path: Path, config: Make
) -> None:
    mirror.cut = 1500
    asked = config(source="coco2017", coco2017_url=f"{mirror.url}/coco/")
    dataset = materialise(asked, tmp_path / "out")
    assert {split: (info.images, info.boxes) for split, info in dataset.splits.items()} == {
        "train": (2, 1),
        "val": (2, 1),
    }
    assert dataset.name == "coco2017"
    assert len(mirror.asked) > 6
    folder = Path(asked.downloads) / "coco2017"
    assert not list(folder.glob("*.zip*"))  # the archives have gone once they are unpacked
    before = len(mirror.asked)
    assert materialise(asked, tmp_path / "again").digest == dataset.digest
    assert len(mirror.asked) == before


def test_an_archive_of_coco2017_that_was_changed(mirror: Server, tmp_path: Path, config: Make) -> None:
    path = next(path for path in mirror.files if "val" in path and "zips" in path)
    mirror.files[path] = mirror.files[path][:-1] + b"!"
    with pytest.raises(DataError, match=r"val2017\.zip has the MD5 digest"):
        materialise(config(source="coco2017", coco2017_url=f"{mirror.url}/coco"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_digests_are_those_that_were_published() -> None:
    assert coco2017.ARCHIVES == {
        "annotations/annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
        "zips/val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        "zips/train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
    }
