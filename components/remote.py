"""A workspace on S3: bring the inputs here, run in a scratch folder, take the outputs back.

Each stage that succeeded has a result manifest, ``_manifests/STAGE[-VARIANT].json``, written last. It names
each output file with its size and SHA-256. A stage downloads exactly the files that the manifests of the
stages before it name, and checks them; a retry that finds its own manifest, made from the same
params, code and inputs, does nothing.

A stage that is killed may leave outputs that no manifest names, which nobody reads; the next try replaces
or deletes them. Of two tries of one request at once, the first to end keeps its outputs; the other, unless it
uploads already, drops its own and reports the first's result. Two that upload at the same time may mix their
files; then these differ from the manifest, and who reads them refuses them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bucket import Bucket, open_bucket
from components.scratch import scratch_folder
from components.workspace import Workspace
from pipelines.stage import VARIANT, Stage, upstream
from pipelines.stages import STAGES
from yolo_core.digest import FileRecord
from yolo_core.errors import DataError, UnreachableError, UsageError, YoloError
from yolo_core.files import FULL

if TYPE_CHECKING:
    from components.runner import StageRequest

_FORMAT = 1
_LONG = 5.0  # seconds; a transfer that takes longer is worth a line

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteWorkspace(Workspace):
    """A scratch folder that stands for a place on S3.

    ``manifest`` is the object that says that the stage is done, ``fingerprint`` what it was asked for, and
    ``published`` fills with the files that were uploaded.
    """

    bucket: Bucket
    manifest: str
    fingerprint: str
    published: dict[str, FileRecord] = field(default_factory=dict)

    def done(self) -> dict[str, Any] | None:
        """Return the manifest of somebody who did what was asked for."""
        found = self.bucket.read_json(self.manifest)
        wanted = {"format": _FORMAT, "fingerprint": self.fingerprint}
        return found if found is not None and wanted.items() <= found.items() else None

    def publish(self, outputs: tuple[str, ...]) -> None:
        """Upload whatever is there of the outputs, and delete what an earlier try put in their place."""
        if self.done() is not None:
            return  # another try was faster; others may be reading its outputs
        self.bucket.delete([self.manifest])  # it names what is now replaced
        with _timed("upload"):
            self.published.update(self.bucket.upload(self.root, _files(self.root, outputs)))
        for output in outputs:
            self.bucket.abort_uploads(output)
            folder = self.bucket.inside(output)
            folder.delete([name for name in folder.objects() if f"{output}/{name}" not in self.published])


def run_remote(uri: str, request: StageRequest) -> dict[str, Any]:
    """Run a stage in an S3 workspace, unless its manifest says that it is done.

    Raises:
        UsageError: bucket, credentials or an input is missing, or the credentials may not write.
        UnreachableError: the store does not answer, or the scratch folder's disk is full.
        DataError: an input differs from its manifest.
    """
    bucket = open_bucket(uri)
    inputs, makers = _find_inputs(bucket, request)
    with _room(), scratch_folder("stage-", Path(tempfile.gettempdir())) as scratch:
        (scratch / "workspace").mkdir()
        place = RemoteWorkspace(
            root=scratch / "workspace",
            uri=bucket.uri,
            bucket=bucket,
            manifest=_manifest_name(request.stage, request.variant),
            fingerprint=_digest({"request": request.fingerprint, "inputs": _as_json(inputs)}),
        )
        done = place.done()
        if done is None:
            _check_writable(place)
            _bring(place, inputs, makers)
            result = request.run_in(place)
            if place.published:
                _write_manifest(place, request, inputs, result)
                return result
            done = place.done()
    if done is None:  # of the faster try, whose files a third one is replacing
        raise UnreachableError(f"{bucket.uri}: another run of {request.stage.name} is uploading; run again")
    return {**done["result"], "run_id": request.run_id, "skipped": True}


def _write_manifest(
    place: RemoteWorkspace,
    request: StageRequest,
    inputs: Mapping[str, FileRecord],
    result: Mapping[str, Any],
) -> None:
    place.bucket.write_json(
        place.manifest,
        {
            "format": _FORMAT,
            "stage": request.stage.name,
            "variant": request.variant,
            "fingerprint": place.fingerprint,
            "inputs": _as_json(inputs),
            "outputs": _as_json(place.published),
            "result": result,
        },
    )


def _check_writable(place: RemoteWorkspace) -> None:
    """See that what is to be uploaded after hours of work may be uploaded."""
    probe = f"{place.manifest}.probe"
    place.bucket.write_json(probe, {})
    place.bucket.abort_uploads(probe)  # there are none, but whoever may not list them could not end
    place.bucket.delete([probe])


def _bring(place: RemoteWorkspace, inputs: Mapping[str, FileRecord], makers: Mapping[str, str]) -> None:
    needed, free = sum(record.size for record in inputs.values()), shutil.disk_usage(place.root).free
    if needed > free:
        raise UnreachableError(
            f"{tempfile.gettempdir()} has {free / 2**30:.1f} GiB free, the inputs take "
            f"{needed / 2**30:.1f} GiB; make room, or point TMPDIR elsewhere"
        )
    with _timed("download"):
        broken = place.bucket.download(place.root, inputs)
    if broken:
        raise DataError(
            f"{place.uri}/{broken[0]} differs from its manifest; "
            f"delete {makers[broken[0]]} there and run that stage again"
        )


def _files(root: Path, outputs: tuple[str, ...]) -> list[str]:
    """Return the files that are there at or below the outputs; names relative to ``root``."""
    found: list[str] = []
    for output in outputs:
        place = root / output
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        found += [path.relative_to(root).as_posix() for path in files if path.is_file()]
    return found


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    if seconds > _LONG:
        _log.info("%s took %.1f s", what, seconds)


@contextmanager
def _room() -> Iterator[None]:
    """Say which disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UnreachableError(
            f"{tempfile.gettempdir()}: {error.strerror}; make room, or point TMPDIR elsewhere"
        ) from None


def _find_inputs(bucket: Bucket, request: StageRequest) -> tuple[dict[str, FileRecord], dict[str, str]]:
    """Return the files that the stage reads, and the manifest that each is named by."""
    from components.runner import missing_input

    found: dict[str, FileRecord] = {}
    makers: dict[str, str] = {}
    for template, path in zip(request.stage.inputs, request.inputs, strict=True):
        there = False
        for manifest, files in _maker_manifests(bucket, request, template).items():
            read = {name: one for name, one in files.items() if name == path or name.startswith(f"{path}/")}
            found.update(read)
            makers.update(dict.fromkeys(read, manifest))
            there = there or bool(read)
        if not there:
            raise UsageError(missing_input(request, template, path, bucket.uri))
    return found, makers


def _maker_manifests(
    bucket: Bucket, request: StageRequest, template: str
) -> dict[str, dict[str, FileRecord]]:
    """Return what the manifests of the stages that make an input name, by the manifests' names."""
    manifests = {}
    for maker in upstream(replace(request.stage, inputs=(template,)), STAGES):
        for variant in _variants_read(maker, request, template):
            name = _manifest_name(maker, variant)
            manifest = bucket.read_json(name)
            if manifest is not None:
                manifests[name] = _records(manifest, f"{bucket.uri}/{name}")
    return manifests


def _variants_read(maker: Stage, request: StageRequest, template: str) -> list[str | None]:
    """Return the variants of the maker that the input takes: none, this one, or all that the params list."""
    if maker.foreach is None:
        return [None]
    if VARIANT in template:
        return [request.variant]
    listed = request.params.get(maker.foreach)
    if not isinstance(listed, list):
        raise UsageError(f"params: {maker.foreach} must be a list of model variants")
    return [str(variant) for variant in listed]


def _records(manifest: Mapping[str, Any], uri: str) -> dict[str, FileRecord]:
    if manifest.get("format") != _FORMAT:
        raise YoloError(f"{uri} has another format; run that stage again")
    try:
        return {
            path: FileRecord(size=int(record["size"]), sha256=str(record["sha256"]))
            for path, record in manifest["outputs"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{uri} is damaged; delete it and run that stage again") from None


def _manifest_name(stage: Stage, variant: str | None) -> str:
    return f"_manifests/{stage.name}-{variant}.json" if variant else f"_manifests/{stage.name}.json"


def _as_json(files: Mapping[str, FileRecord]) -> dict[str, dict[str, Any]]:
    return {path: {"size": record.size, "sha256": record.sha256} for path, record in sorted(files.items())}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
