"""Running a stage: what is checked before it, what it finds, what is left after it."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import code, runner
from components.code import copy_code
from components.job import Job
from components.store import TrackingConfig
from pipelines.stages import STAGES
from yolo_core.errors import GateError, UsageError

Work = Callable[[Any, Job], dict[str, Any]]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Let a function of the test be the work of two stages: the launcher is tested here."""

    def install(work: Work) -> None:
        module = types.ModuleType("stage_of_the_test")
        module.run = work  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for name in ("validate", "train"):
            monkeypatch.setitem(runner.WORK, name, (runner.WORK[name][0], "stage_of_the_test:run"))

    return install


@pytest.fixture
def ready(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a dataset folder, and the working directory in it."""
    folder = workspace / "data" / "dataset"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text('{"digest": "sha256:feed"}', encoding="utf-8")
    monkeypatch.chdir(workspace)
    return workspace


def write_outputs(_config: Any, job: Job) -> dict[str, Any]:
    job.path("reports/validation").mkdir()
    job.path("data/dataset.quarantine.json").touch()
    job.path("reports/validation.json").write_text('{"success": true}', encoding="utf-8")
    return {"success": True}


def client_of(workspace: Path) -> Any:
    from components.store import connect

    return connect(TrackingConfig(uri=None, experiment="yolo-mlops"), workspace)


def runs_of(workspace: Path) -> dict[str, Any]:
    client = client_of(workspace)
    experiment = client.get_experiment_by_name("yolo-mlops").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_success_is_shown_tracked_and_tagged(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    stage(write_outputs)
    done = launch("validate", "--run-id", "r1", "--json", "--set", "validate.min_box_side=3")
    assert done.code == 0, done.err
    assert done.result["result"] == {"success": True}
    quarantine = "data/dataset.quarantine.json"
    assert done.result["outputs"] == ["reports/validation", quarantine, "reports/validation.json"]
    runs = runs_of(ready)
    child, parent = runs["validate"], runs["r1"]
    assert child.info.run_id == done.result["mlflow_run_id"]
    assert child.data.params["validate.min_box_side"] == "3.0"
    assert all(name.startswith("validate.") for name in child.data.params)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["pipeline.orchestrator"] == "cli"
    assert child.data.tags["dataset.digest"] == parent.data.tags["dataset.digest"] == "sha256:feed"
    assert child.info.status == parent.info.status == "FINISHED"
    assert not (ready / "mlruns").exists()


def test_stale_outputs_are_cleared_but_not_what_links_point_to(
    ready: Path, stage: Callable[[Work], None], launch: Any
) -> None:
    cache = ready / "cache"
    cache.mkdir()
    (cache / "kept").touch()
    (ready / "reports").mkdir()
    (ready / "reports" / "validation").symlink_to(cache)
    (ready / "reports" / "validation.json").write_text("stale", encoding="utf-8")
    seen: list[bool] = []

    def work(config: Any, job: Job) -> dict[str, Any]:
        seen.append(job.path("reports/validation").exists() or job.path("reports/validation.json").exists())
        return write_outputs(config, job)

    stage(work)
    assert launch("validate").code == 0
    assert seen == [False]
    assert (cache / "kept").exists()


def test_what_a_failed_stage_did_not_write_comes_back(
    ready: Path, stage: Callable[[Work], None], launch: Any
) -> None:
    reports = ready / "reports"
    (reports / "validation").mkdir(parents=True)
    (reports / "validation" / "old").touch()
    (reports / "validation.json").write_text("old", encoding="utf-8")

    def work(config: Any, job: Job) -> dict[str, Any]:
        job.path("reports/validation.json").write_text("new", encoding="utf-8")
        raise GateError("no")

    stage(work)
    assert launch("validate").code == 1
    assert (reports / "validation" / "old").exists()
    assert (reports / "validation.json").read_text(encoding="utf-8") == "new"
    assert not list(ready.glob(".replaced-*"))


def test_a_mistake_deletes_nothing(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    stage(write_outputs)
    report = ready / "reports" / "validation.json"
    report.parent.mkdir()
    report.write_text("precious", encoding="utf-8")
    assert launch("validate", "--set", "validate.min_box_side=many").code == 2
    assert launch("validate", "--set", "tracking.uri=./mlruns").code == 2
    assert launch("validate", "--set", "tracking.uri=http://127.0.0.1:1").code == 3
    (ready / "data" / "dataset" / "dataset.json").unlink()
    (ready / "data" / "dataset").rmdir()
    assert launch("validate").code == 2
    assert report.read_text(encoding="utf-8") == "precious"


def test_a_gate_that_says_no(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    def work(_config: Any, _job: Job) -> dict[str, Any]:
        raise GateError("3 boxes leave their image; see reports/validation/offenders.csv")

    stage(work)
    done = launch("validate", "--json")
    assert done.code == 1
    assert done.complaint == "error: 3 boxes leave their image; see reports/validation/offenders.csv"
    told = done.result
    assert told.pop("mlflow_run_id")
    assert told == {"error": done.complaint.removeprefix("error: "), "exit_code": 1}
    assert {run.info.status for run in runs_of(ready).values()} == {"FAILED"}


def test_training_does_not_start_on_data_that_failed(
    ready: Path, stage: Callable[[Work], None], launch: Any
) -> None:
    stage(lambda _config, _job: pytest.fail("it must not run"))
    (ready / "reports").mkdir(exist_ok=True)
    (ready / "data" / "dataset.quarantine.json").touch()
    for content, message in (('{"success": false}', "did not pass validation"), ("{", "cannot be read")):
        (ready / "reports" / "validation.json").write_text(content, encoding="utf-8")
        done = launch("train", "--variant", "yolov5n")
        assert done.code == 1
        assert message in done.complaint


def test_retry_continues_the_same_runs(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    def broken(_config: Any, job: Job) -> dict[str, Any]:
        job.tracker.log_metrics({"loss": 2.0}, step=1)
        raise GateError("no")

    stage(broken)
    assert launch("validate", "--run-id", "again").code == 1
    stage(write_outputs)
    done = launch("validate", "--run-id", "again", "--set", "validate.min_box_side=1")
    assert done.code == 0
    runs = runs_of(ready)
    assert set(runs) == {"again", "validate"}
    child = runs["validate"]
    assert child.info.status == runs["again"].info.status == "FINISHED"
    assert child.data.tags["pipeline.attempt"] == "2"
    assert child.data.tags["pipeline.changed_params"] == "validate.min_box_side: 2.0 -> 1.0"
    assert child.data.metrics == {"loss": 2.0}


def test_a_stage_that_forgets_an_output(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    stage(lambda _config, _job: {})
    done = launch("validate")
    assert done.code == 1
    missing = "reports/validation, data/dataset.quarantine.json, reports/validation.json"
    assert f"ended without writing {missing}" in done.complaint


def test_interrupt_marks_the_run_killed(ready: Path, stage: Callable[[Work], None], launch: Any) -> None:
    def work(_config: Any, _job: Job) -> dict[str, Any]:
        raise KeyboardInterrupt

    stage(work)
    done = launch("validate")
    assert (done.code, done.complaint) == (130, "error: interrupted")
    assert {run.info.status for run in runs_of(ready).values()} == {"KILLED"}


def test_an_unexpected_error_fails_the_run_and_passes_on(
    ready: Path, stage: Callable[[Work], None], launch: Any
) -> None:
    def work(_config: Any, _job: Job) -> dict[str, Any]:
        raise ZeroDivisionError

    stage(work)
    with pytest.raises(ZeroDivisionError):
        launch("validate")
    assert {run.info.status for run in runs_of(ready).values()} == {"FAILED"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown stage or command 'trian'"),
        (["train"], "runs per variant; pass --variant"),
        (["train", "--variant", "yolov5q"], "unknown model variant 'yolov5q'; choose one of yolov5n"),
        (["validate", "--variant", "yolov5n"], "does not run per variant"),
        (["validate", "--params", "none.yaml"], "no params file at none.yaml"),
        (["validate", "--workspace", "nowhere"], "workspace nowhere is not a folder"),
        (["validate", "--workspace", "gs://bucket"], "gs:// is not supported"),
        (["validate", "--set", "validate.box_tolerence=1"], "did you mean 'box_tolerance'"),
        (["validate", "--run-id", "it's"], "may not be empty or hold quotes"),
        (["validate", "--varaint", "x"], "unrecognized arguments"),
        (["validate"], "validate needs data/dataset"),
    ],
)
def test_wrong_usage_is_two_and_names_the_mistake(
    workspace: Path,
    stage: Callable[[Work], None],
    launch: Any,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    stage(write_outputs)
    monkeypatch.chdir(workspace)
    done = launch(*argv)
    assert done.code == 2
    assert message in done.complaint


def test_missing_input_names_the_command_that_makes_it(
    workspace: Path, stage: Callable[[Work], None], launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(write_outputs)
    monkeypatch.chdir(workspace)
    assert "run `python -m components dataset` first" in launch("validate").complaint


def test_an_unknown_section_in_the_file_is_named(
    ready: Path, stage: Callable[[Work], None], launch: Any, params: dict[str, Any]
) -> None:
    stage(write_outputs)
    (ready / "params.yaml").write_text(yaml.safe_dump({**params, "trian": {}}), encoding="utf-8")
    done = launch("validate")
    assert done.code == 2
    assert "trian is not a known section" in done.complaint


def test_run_id_follows_from_what_is_run(params: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE_RUN_ID", raising=False)
    options = runner.Options(params=Path("params.yaml"), workspace=".")
    first = runner.pipeline_run_id(options, params)
    assert first == runner.pipeline_run_id(options, json.loads(json.dumps(params)))
    assert first.startswith("local-")
    assert first == runner.pipeline_run_id(options, {**params, "tracking": {"uri": "http://other"}})
    assert first != runner.pipeline_run_id(options, {**params, "variants": ["yolov5s"]})
    elsewhere = runner.Options(params=Path("params.yaml"), workspace="/")
    assert first != runner.pipeline_run_id(elsewhere, params)
    monkeypatch.setenv("PIPELINE_RUN_ID", "from-outside")
    assert runner.pipeline_run_id(options, params) == "from-outside"
    with pytest.raises(UsageError, match="may not be empty"):
        runner.pipeline_run_id(runner.Options(params=Path("p"), workspace=".", run_id=" "), params)


def test_orchestrator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIPELINE_ORCHESTRATOR", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    assert runner.orchestrator() == "cli"
    monkeypatch.setenv("DVC_STAGE", "train@yolov5n")
    assert runner.orchestrator() == "dvc"
    monkeypatch.setenv("PIPELINE_ORCHESTRATOR", "airflow")
    assert runner.orchestrator() == "airflow"


def test_every_stage_has_a_place_in_the_table() -> None:
    from components.__main__ import STAGE_HELP
    from pipelines.stages import STAGES

    assert [stage.name for stage in STAGES] == list(runner.WORK) == list(STAGE_HELP)


def test_a_fingerprint_tells_the_code_of_its_stage_alone(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_code(tmp_path / "code")
    folders = {name: tmp_path / "code" / name for name in code.PACKAGES}
    monkeypatch.setattr(code, "package_folders", lambda: folders)

    def fingerprints() -> list[str]:
        options = runner.Options(params=ready / "params.yaml", workspace=str(ready))
        return [runner.stage_request(stage, options).fingerprint for stage in STAGES[:2]]

    before = fingerprints()
    with (folders["components"] / "validate/work.py").open("a") as file:
        file.write("# changed\n")
    assert [new == old for new, old in zip(fingerprints(), before, strict=True)] == [True, False]
