"""Stages on S3 that are killed at any point, or run twice at once, against a real server."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.bucket import Bucket
from components.scratch import scratch_folder
from tests.children import in_child

MANIFEST = "_manifests/dataset.json"


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def everything(s3: Any, prefix: str) -> dict[str, bytes]:
    """Return all objects, manifests without what changes from run to run."""
    client, found = s3.client(), {}
    for item in client.list_objects_v2(Bucket="work", Prefix=f"{prefix}/").get("Contents", ()):
        body = client.get_object(Bucket="work", Key=item["Key"])["Body"].read()
        name = item["Key"].removeprefix(f"{prefix}/")
        if name.startswith("_manifests/"):
            manifest = json.loads(body)
            body = json.dumps({key: manifest[key] for key in ("inputs", "outputs")}).encode()
        found[name] = body
    return found


def while_downloading() -> None:
    stream = Bucket._stream

    def broken(self: Bucket, path: str, span: Any, take: Any) -> int:
        size = stream(self, path, span, take)
        if path.startswith("data/"):
            die()
        return size

    Bucket._stream = broken  # type: ignore[method-assign]


def while_uploading() -> None:
    """Send one file, one that the next try does not write, and a part of another; then die."""
    upload = Bucket.upload

    def broken(self: Bucket, root: Path, files: list[str]) -> Any:
        upload(self, root, files[:1])
        (root / files[0]).with_name("of-an-earlier-try").touch()
        stray = Path(files[0]).with_name("of-an-earlier-try").as_posix()
        upload(self, root, [stray])
        key = f"{self.prefix}/{files[0]}"
        begun = self.client.create_multipart_upload(Bucket=self.name, Key=key)["UploadId"]
        self.client.upload_part(Bucket=self.name, Key=key, UploadId=begun, PartNumber=1, Body=b"half")
        die()

    Bucket.upload = broken  # type: ignore[method-assign, assignment]


def before_the_manifest() -> None:
    write = Bucket.write_json
    Bucket.write_json = lambda self, path, value: (  # type: ignore[method-assign]
        write(self, path, value) if path.endswith(".probe") else die()
    )


def after_the_manifest() -> None:
    write = Bucket.write_json

    def last(self: Bucket, path: str, value: Any) -> None:
        write(self, path, value)
        if not path.endswith(".probe"):
            die()

    Bucket.write_json = last  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("stage", "point"),
    [
        ("validate", while_downloading),
        ("dataset", while_uploading),
        ("validate", while_uploading),
        ("validate", before_the_manifest),
        ("validate", after_the_manifest),
    ],
)
def test_killed_and_run_again(
    point: Callable[[], None], stage: str, s3: Any, prefix: str, launch: Any, workspace: Path
) -> None:
    undisturbed, disturbed = f"s3://work/{prefix}/one", f"s3://work/{prefix}/two"
    for place in (undisturbed, disturbed):
        for name in ("dataset", "validate")[: 1 + (stage == "validate")]:
            if (place, name) != (disturbed, stage):
                assert launch(name, "--workspace", place).code == 0

    def killed() -> None:
        point()
        launch(stage, "--workspace", disturbed)

    assert in_child(killed) == -signal.SIGKILL
    assert any((workspace / "tmp").iterdir())
    again = launch(stage, "--workspace", disturbed, "--json")
    assert again.code == 0, again.err
    assert again.result.get("skipped", False) == (point is after_the_manifest)
    assert everything(s3, f"{prefix}/two") == everything(s3, f"{prefix}/one")
    assert not s3.client().list_multipart_uploads(Bucket="work", Prefix=f"{prefix}/").get("Uploads")
    assert not list((workspace / "tmp").iterdir())


def test_killed_at_work(s3: Any, prefix: str, launch: Any, stages: Any, workspace: Path) -> None:
    place = f"s3://work/{prefix}"
    stages.hook = die
    assert in_child(lambda: launch("dataset", "--workspace", place)) == -signal.SIGKILL
    assert set(everything(s3, prefix)) == set()
    stages.hook = None
    assert launch("dataset", "--workspace", place).code == 0
    assert not list((workspace / "tmp").iterdir())


def test_the_first_of_two_equal_tries_counts(s3: Any, prefix: str, launch: Any, stages: Any) -> None:
    """The second ends while the first works, and others may read its files when the first ends."""
    place = f"s3://work/{prefix}"

    def other_try() -> None:
        stages.hook = None
        assert in_child(lambda: os._exit(launch("dataset", "--workspace", place).code)) == 0
        stages.image = b"drawn otherwise"

    stages.hook = other_try
    mine = launch("dataset", "--workspace", place, "--json")
    assert mine.code == 0 and mine.result["skipped"] is True
    assert everything(s3, prefix)["data/dataset/images/1.jpg"] == b"image"
    assert launch("validate", "--workspace", place).code == 0


def test_equal_tries_that_upload_at_once(
    s3: Any, prefix: str, launch: Any, stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that ends last has replaced the other's files, so its manifest must be the one that stays."""
    place, upload = f"s3://work/{prefix}", Bucket.upload

    def other_try() -> None:
        stages.image = b"drawn otherwise"
        os._exit(launch("dataset", "--workspace", place).code)

    def upload_after_other(self: Bucket, *rest: Any) -> Any:
        monkeypatch.setattr(Bucket, "upload", upload)
        assert in_child(other_try) == 0
        return upload(self, *rest)

    monkeypatch.setattr(Bucket, "upload", upload_after_other)
    assert launch("dataset", "--workspace", place).code == 0
    assert everything(s3, prefix)["data/dataset/images/1.jpg"] == b"image"
    assert launch("validate", "--workspace", place).code == 0


def test_the_last_of_two_different_runs_counts(s3: Any, prefix: str, launch: Any, stages: Any) -> None:
    place = f"s3://work/{prefix}"

    def other_run() -> None:
        stages.hook, stages.second = None, "2.jpg"
        other = ("dataset", "--workspace", place, "--set", "dataset.seed=9")
        assert in_child(lambda: os._exit(launch(*other).code)) == 0
        assert "data/dataset/images/2.jpg" in everything(s3, prefix)
        stages.second = None

    stages.hook = other_run
    assert launch("dataset", "--workspace", place).code == 0
    named = json.loads(everything(s3, prefix)[MANIFEST])["outputs"]
    assert set(named) | {MANIFEST} == set(everything(s3, prefix))
    assert launch("validate", "--workspace", place).code == 0


def test_scratch_in_use_stays(tmp_path: Path) -> None:
    with scratch_folder("stage-", tmp_path) as mine:
        with scratch_folder("stage-", tmp_path) as other:
            assert mine.is_dir() and other != mine
        assert mine.is_dir() and not other.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_scratch_of_other_users_is_no_obstacle(tmp_path: Path) -> None:
    shared = Path(tempfile.mkdtemp(dir="/tmp"))
    shared.chmod(0o1777)
    left = shared / "stage-left"
    left.mkdir(mode=0o700)
    (left / "in-use").touch()

    def as_other() -> None:
        os.setuid(65534)
        with scratch_folder("stage-", shared):
            pass
        os._exit(0)

    try:
        assert in_child(as_other) == 0
        assert left.is_dir()
        with scratch_folder("stage-", shared):
            assert not left.exists()
    finally:
        shared.rmdir()
