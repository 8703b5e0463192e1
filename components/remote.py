"""A workspace on S3: bring the inputs here, run in a scratch folder, take the outputs back.

Each stage that succeeded has a result manifest, ``_manifests/STAGE[-VARIANT].json``, written last. It names
each output file with its size and SHA-256. A stage downloads exactly the files that the manifests of the
stages before it name, and checks them; a retry that finds its own manifest, made from the same
params and inputs, does nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bucket import Bucket, describe, open_bucket
from components.workspace import Workspace
from pipelines.stage import VARIANT, Stage, upstream
from pipelines.stages import STAGES
from yolo_core.digest import FileRecord
from yolo_core.errors import DataError, UsageError, YoloError

if TYPE_CHECKING:
    from components.runner import StageRequest

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RemoteWorkspace(Workspace):
    """A scratch folder that stands for a place on S3."""

    bucket: Bucket

    def publish(self, outputs: tuple[str, ...]) -> None:
        """Upload whatever is there of the outputs."""
        self.bucket.upload(self.root, describe(self.root, outputs))


def run_remote(uri: str, request: StageRequest) -> dict[str, Any]:
    """Run a stage in an S3 workspace, unless its manifest says that it is done.

    Raises:
        UsageError: bucket, credentials or an input is missing.
        UnreachableError: the store does not answer.
        DataError: an input differs from its manifest.
    """
    bucket = open_bucket(uri)
    inputs = _find_inputs(bucket, request)
    asked = _digest({"request": request.fingerprint, "inputs": _as_json(inputs)})
    name = _manifest_name(request.stage, request.variant)
    done = bucket.read_json(name)
    if done is not None and done.get("fingerprint") == asked:
        return {**done["result"], "run_id": request.run_id, "skipped": True}
    scratch = Path(tempfile.mkdtemp(prefix="stage-"))
    try:
        broken = bucket.download(scratch, inputs)
        if broken:
            raise DataError(
                f"{bucket.uri}/{broken[0]} differs from its manifest; run the stage that makes it again"
            )
        result = request.run_in(RemoteWorkspace(root=scratch, uri=bucket.uri, bucket=bucket))
        outputs = describe(scratch, request.outputs)
    finally:
        shutil.rmtree(scratch)
    bucket.write_json(
        name,
        {
            "format": _FORMAT,
            "stage": request.stage.name,
            "variant": request.variant,
            "fingerprint": asked,
            "inputs": _as_json(inputs),
            "outputs": _as_json(outputs),
            "result": result,
        },
    )
    return result


def _find_inputs(bucket: Bucket, request: StageRequest) -> dict[str, FileRecord]:
    """Return the files that the stage reads, from the manifests of the stages that made them."""
    from components.runner import missing_input

    found: dict[str, FileRecord] = {}
    for template, path in zip(request.stage.inputs, request.inputs, strict=True):
        files = {
            name: record
            for manifest in _maker_manifests(bucket, request, template)
            for name, record in manifest.items()
            if name == path or name.startswith(f"{path}/")
        }
        if not files:
            raise UsageError(missing_input(request, template, path, bucket.uri))
        found.update(files)
    return found


def _maker_manifests(bucket: Bucket, request: StageRequest, template: str) -> list[dict[str, FileRecord]]:
    manifests = []
    for maker in upstream(replace(request.stage, inputs=(template,)), STAGES):
        for variant in _variants_read(maker, request, template):
            manifest = bucket.read_json(_manifest_name(maker, variant))
            if manifest is not None:
                manifests.append(_records(manifest, bucket, maker))
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


def _records(manifest: Mapping[str, Any], bucket: Bucket, maker: Stage) -> dict[str, FileRecord]:
    if manifest.get("format") != _FORMAT:
        raise YoloError(f"{bucket.uri}: manifest of {maker.name} has another format; run that stage again")
    return {
        path: FileRecord(size=int(record["size"]), sha256=str(record["sha256"]))
        for path, record in manifest["outputs"].items()
    }


def _manifest_name(stage: Stage, variant: str | None) -> str:
    return f"_manifests/{stage.name}-{variant}.json" if variant else f"_manifests/{stage.name}.json"


def _as_json(files: Mapping[str, FileRecord]) -> dict[str, dict[str, Any]]:
    return {path: {"size": record.size, "sha256": record.sha256} for path, record in sorted(files.items())}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
