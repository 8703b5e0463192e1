"""Run one stage: configuration, inputs, tracking, work, outputs."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from components.code import code_digest
from components.config import load_section, read_params
from components.config import override as override_params
from components.job import Job
from components.provenance import git_commit
from components.store import TrackingConfig
from components.workspace import S3_SCHEME, Workspace, local_workspace
from pipelines.stage import Stage, upstream
from pipelines.stages import STAGES
from yolo_core.errors import DataError, GateError, UsageError, YoloError

# Stage -> (its configuration, its work). By name, so that nothing heavy is imported before it is needed.
WORK: dict[str, tuple[str, str]] = {
    "dataset": ("components.dataset.config:DatasetConfig", "components.dataset.work:run"),
    "validate": ("components.validate.config:ValidateConfig", "components.validate.work:run"),
    "train": ("components.train.config:TrainParams", "components.train.work:run"),
    "study": ("components.study.config:StudyConfig", "components.study.study:run"),
    "compare": ("components.study.config:CompareConfig", "components.study.compare.stage:run"),
    "export": ("components.export.config:ExportConfig", "components.export.work:run"),
    "register": ("components.register.config:RegisterConfig", "components.register.work:run"),
}
SECTIONS = ("variants", *WORK, "search", "promote", "tracking", "airflow")
_DATASET_FILE = "data/dataset/dataset.json"
_VALIDATION = "reports/validation.json"
_QUARANTINE = "data/dataset.quarantine.json"  # read by every stage that works with validated data


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of a stage. ``params`` and ``workspace`` are as the user typed them."""

    params: Path
    workspace: str
    variant: str | None = None
    run_id: str | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> Options:
        """Take what `components.cli.new_parser` and a stage's own parser know."""
        return cls(
            params=parsed.params,
            workspace=parsed.workspace,
            variant=getattr(parsed, "variant", None),
            run_id=getattr(parsed, "run_id", None),
            overrides=tuple(parsed.overrides),
        )


def load_params(options: Options) -> dict[str, Any]:
    """Read the params file with the overrides; every section must be a known one."""
    params = override_params(read_params(options.params), options.overrides)
    unknown = [key for key in params if key not in SECTIONS]
    if unknown:
        raise UsageError(
            f"{options.params}: {unknown[0]} is not a known section; known are {', '.join(SECTIONS)}"
        )
    return params


def resolve(reference: str) -> Any:
    """Import what ``module:name`` names."""
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def run_stage(stage: Stage, options: Options) -> dict[str, Any]:
    """Run a stage in its workspace and return its result for the caller to show.

    Raises:
        YoloError: with the exit code of the command line; whatever can be wrong with the request is
            found before the stage works or anything is deleted.
    """
    request = stage_request(stage, options)
    if str(getattr(request.config, "ray_address", None)).startswith(("http://", "https://")):
        handed_over: dict[str, Any] = resolve("components.train.submit:hand_over")(request, options.workspace)
        return handed_over
    if options.workspace.startswith(S3_SCHEME):
        from components.remote import run_remote

        result: dict[str, Any] = run_remote(options.workspace, request)
        return result
    return request.run_in(local_workspace(options.workspace))


def stage_request(stage: Stage, options: Options) -> StageRequest:
    """Read and check what a command line asks of a stage; `UsageError` says what is wrong."""
    params = load_params(options)
    config = load_section(params, stage.name, resolve(WORK[stage.name][0]))
    variant = _check_variant(stage, options.variant, params)
    tracking: TrackingConfig = load_section(params, "tracking", TrackingConfig)
    return StageRequest(
        stage=stage,
        variant=variant,
        config=config,
        params=params,
        tracking=tracking,
        run_id=pipeline_run_id(options, params),
    )


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """A checked request to run a stage; all that is missing is the folder to run it in.

    ``work`` does it in place of what `WORK` names for the stage.
    """

    stage: Stage
    variant: str | None
    config: Any
    params: Mapping[str, Any]
    tracking: TrackingConfig
    run_id: str
    work: Callable[[Any, Job], dict[str, Any]] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Paths that the stage reads, relative to the workspace."""
        return self.stage.resolve(self.stage.inputs, self.variant)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Paths that the stage writes, relative to the workspace."""
        return self.stage.resolve(self.stage.writes, self.variant)

    @property
    def fingerprint(self) -> str:
        """Digest of what was asked: the stage, its variant, the params it uses and its code."""
        used = {key: self.params.get(key) for key in self.stage.params}
        code = code_digest(self.stage.code)
        return _digest({"stage": self.stage.name, "variant": self.variant, "params": used, "code": code})

    def run_in(self, workspace: Workspace) -> dict[str, Any]:
        """Run the stage in a local folder."""
        self.check_inputs(workspace)
        from components.tracking import RunIdentity, open_run

        started = time.monotonic()
        identity = RunIdentity(
            run_id=self.run_id,
            stage=self.stage.name,
            variant=self.variant,
            orchestrator=orchestrator(),
        )
        store_root = Path.cwd() if workspace.is_remote else workspace.root
        with open_run(self.tracking, store_root, identity, lasting=not workspace.is_remote) as tracker:
            tracker.log_params(_flatten(asdict(self.config), self.stage.name))
            job = Job(
                stage=self.stage.name,
                variant=self.variant,
                workspace=workspace,
                tracker=tracker,
                run_id=self.run_id,
                params=self.params,
            )
            with workspace.replacing(self.outputs):
                result = self._work(job)
            digest = dataset_digest(workspace)
            if digest is not None:
                tracker.tag_dataset(digest)
        return {
            "stage": self.stage.name,
            "variant": self.variant,
            "run_id": self.run_id,
            "mlflow_uri": tracker.uri,
            "mlflow_run_id": tracker.run_id,
            "workspace": workspace.uri,
            "outputs": list(self.outputs),
            "seconds": round(time.monotonic() - started, 2),
            "result": result,
        }

    def _work(self, job: Job) -> dict[str, Any]:
        work = self.work or resolve(WORK[self.stage.name][1])
        try:
            result = work(self.config, job)
        except YoloError as error:
            job.workspace.publish(self.outputs)  # the report that says why
            error.about["mlflow_run_id"] = job.tracker.run_id
            raise
        missing = [path for path in self.outputs if not job.workspace.path(path).exists()]
        if missing:
            raise YoloError(f"stage {self.stage.name} ended without writing {', '.join(missing)}")
        job.workspace.publish(self.outputs)
        return result

    def check_inputs(self, workspace: Workspace) -> None:
        """Raise `UsageError` for an input that is missing, `GateError` for data that did not pass."""
        for template, path in zip(self.stage.inputs, self.inputs, strict=True):
            if not workspace.path(path).exists():
                raise UsageError(missing_input(self, template, path, workspace.uri))
        report = workspace.path(_VALIDATION)
        if _QUARANTINE in self.inputs and report.is_file() and not _read_json(report).get("success"):
            raise GateError(f"the dataset did not pass validation; {report} says why")


def missing_input(request: StageRequest, template: str, path: str, place: str) -> str:
    """Say which input is missing, and the command that makes it."""
    makers = upstream(replace(request.stage, inputs=(template,)), STAGES)
    message = f"{request.stage.name} needs {path}, which is not in {place}"
    if not makers:
        return message
    maker = makers[0]
    variant = request.variant or "VARIANT"
    return f"{message}; run `{' '.join(maker.command(variant if maker.foreach else None))}` first"


def orchestrator() -> str:
    """Return who started this process: $PIPELINE_ORCHESTRATOR, dvc, or cli."""
    return os.environ.get("PIPELINE_ORCHESTRATOR") or ("dvc" if "DVC_STAGE" in os.environ else "cli")


def dataset_digest(workspace: Workspace) -> str | None:
    """Return the digest of the dataset in the workspace, if there is one."""
    path = workspace.path(_DATASET_FILE)
    if not path.is_file():
        return None
    found = _read_json(path).get("digest")
    return str(found) if found else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the stage that writes it again") from error
    return loaded if isinstance(loaded, dict) else {}


def _check_variant(stage: Stage, variant: str | None, params: Mapping[str, Any]) -> str | None:
    if stage.foreach is None:
        if variant is not None:
            raise UsageError(f"stage {stage.name} does not run per variant; leave --variant out")
        return None
    if variant is None:
        listed = params.get(stage.foreach)
        choices = ", ".join(map(str, listed)) if isinstance(listed, list) else "yolov5n"
        raise UsageError(f"stage {stage.name} runs per variant; pass --variant, one of {choices}")
    from yolo_core.model.variants import get_variant

    return get_variant(variant).name


def pipeline_run_id(options: Options, params: Mapping[str, Any]) -> str:
    """Return the pipeline run's id: given, from the environment, or one that follows from what is run.

    The last lets the stages of one ``dvc repro``, which are separate processes, share a parent run.
    """
    given = options.run_id or os.environ.get("PIPELINE_RUN_ID")
    if given is None:
        place = options.workspace
        place = place if place.startswith(S3_SCHEME) else str(Path(place).resolve())
        said = {key: value for key, value in params.items() if key not in ("tracking", "airflow")}
        return f"local-{_digest({'params': said, 'commit': git_commit(), 'workspace': place})[:8]}"
    if not given.isprintable() or "'" in given or "`" in given or not given.strip():
        raise UsageError(f"run id {given!r} may not be empty or hold quotes or control characters")
    return given


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, name))
        else:
            flat[name] = value
    return flat
