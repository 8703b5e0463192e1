"""A workspace on S3, against a real server."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from components.bucket import open_bucket
from yolo_core.digest import FileRecord
from yolo_core.errors import UsageError


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


def test_files_go_there_and_come_back_checked(s3: Any, prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "out" / "deep").mkdir(parents=True)
    (source / "out" / "deep" / "a b.txt").write_bytes(b"alpha")
    (source / "report.json").write_bytes(b"{}")
    bucket = open_bucket(f"s3://work/{prefix}/")
    assert bucket.uri == f"s3://work/{prefix}"
    files = bucket.upload(source, ["out/deep/a b.txt", "report.json"])
    assert files == {
        "out/deep/a b.txt": FileRecord(size=5, sha256=hashlib.sha256(b"alpha").hexdigest()),
        "report.json": FileRecord(size=2, sha256=hashlib.sha256(b"{}").hexdigest()),
    }
    target = tmp_path / "target"
    assert bucket.download(target, files) == []
    assert (target / "out" / "deep" / "a b.txt").read_bytes() == b"alpha"
    s3.client().put_object(Bucket="work", Key=f"{prefix}/report.json", Body=b"[]")
    assert bucket.download(target, files) == ["report.json"]


def test_json_objects(s3: Any, prefix: str) -> None:
    bucket = open_bucket(f"s3://work/{prefix}")
    assert bucket.read_json("_manifests/x.json") is None
    bucket.write_json("_manifests/x.json", {"a": [1]})
    assert bucket.read_json("_manifests/x.json") == {"a": [1]}


def test_a_bucket_that_is_not_there(s3: Any) -> None:
    with pytest.raises(UsageError, match="no such bucket"):
        open_bucket("s3://nobody-made-this/x")
    with pytest.raises(UsageError, match="names no bucket"):
        open_bucket("s3:///x")


def test_credentials_that_are_wrong_or_missing(
    s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UsageError, match="refuses these credentials"):
        open_bucket("s3://work/x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no S3 credentials; set AWS_ACCESS_KEY_ID"):
        open_bucket("s3://work/x")


def test_an_endpoint_that_is_none(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url")
    with pytest.raises(UsageError, match="s3://work/x"):
        open_bucket("s3://work/x")


class TestStages:
    """Stages that run on S3; their own work is the test's, what moves their files is the launcher's."""

    @pytest.fixture
    def place(
        self, s3: Any, prefix: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, stages: Any
    ) -> str:
        monkeypatch.chdir(workspace)
        return f"s3://work/{prefix}"

    def manifest(self, s3: Any, place: str, name: str) -> dict[str, Any]:
        key = f"{place.removeprefix('s3://work/')}/_manifests/{name}.json"
        loaded: dict[str, Any] = json.loads(s3.client().get_object(Bucket="work", Key=key)["Body"].read())
        return loaded

    def test_outputs_travel_and_a_retry_does_nothing(
        self, s3: Any, place: str, launch: Any, stages: Any
    ) -> None:
        first = launch("dataset", "--workspace", place, "--json")
        assert first.code == 0, first.err
        assert first.result["workspace"] == place
        manifest = self.manifest(s3, place, "dataset")
        assert set(manifest["outputs"]) == {"data/dataset/dataset.json", "data/dataset/images/1.jpg"}
        second = launch("validate", "--workspace", place, "--json")
        assert second.code == 0, second.err
        assert self.manifest(s3, place, "validate")["inputs"] == manifest["outputs"]
        again = launch("dataset", "--workspace", place, "--json")
        assert again.result["skipped"] is True
        assert again.result["result"] == first.result["result"]
        assert stages.calls == ["dataset", "validate"]
        assert launch("dataset", "--workspace", place, "--set", "dataset.seed=9").code == 0
        assert launch("validate", "--workspace", place).code == 0  # its input changed
        assert stages.calls == ["dataset", "validate", "dataset", "validate"]

    def test_a_missing_input(self, place: str, launch: Any) -> None:
        done = launch("validate", "--workspace", place)
        assert done.code == 2
        assert (
            f"data/dataset, which is not in {place}; run `python -m components dataset` first"
            in done.complaint
        )

    def test_a_failed_gate_leaves_its_report_but_no_manifest(
        self, s3: Any, place: str, launch: Any, stages: Any
    ) -> None:
        assert launch("dataset", "--workspace", place).code == 0
        stages.refuse = True
        assert launch("validate", "--workspace", place).code == 1
        root = place.removeprefix("s3://work/")
        report = s3.client().get_object(Bucket="work", Key=f"{root}/reports/validation.json")
        assert json.loads(report["Body"].read()) == {"success": False}
        stages.refuse = False
        assert launch("validate", "--workspace", place).code == 0
        assert stages.calls == ["dataset", "validate", "validate"]


def test_the_real_dataset_and_validation_stages(
    s3: Any, prefix: str, workspace: Path, launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a drawn dataset goes to S3 and another process's validation reads it from there."""
    monkeypatch.chdir(workspace)
    place = f"s3://work/{prefix}"
    small = [f"dataset.builtin.{split}_images=4" for split in ("train", "val", "test")]
    options = ["--workspace", place, "--json", *(word for one in small for word in ("--set", one))]
    made = launch("dataset", *options)
    assert made.code == 0, made.err
    # Four pictures do not show every digit.
    checked = launch("validate", *options, "--set", "validate.min_instances={}")
    assert checked.code == 0, checked.err
    report = open_bucket(place).read_json("reports/validation.json")
    assert report is not None
    assert report["dataset_digest"] == made.result["result"]["digest"]
    assert not (workspace / "data").exists()
