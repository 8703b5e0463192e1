"""The trigger form: what it changes, and what no text of it can do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from pipelines.stages import VARIANTS
from pipelines.to_airflow.assets import DATASET
from pipelines.to_airflow.form import FIXED, FORM, filled_form, overrides
from pipelines.to_airflow.operators import StageOperator
from pipelines.to_airflow.place import safe_name, task_folder, workspace
from tests.dags.contexts import RUN_ID, context

HOSTILE = [
    "$(touch TRAP)",
    "`touch TRAP`",
    "x; touch TRAP",
    "x\ntouch TRAP",
    "{{ var.value.get('secret') }}{% raw %}",
    "--json",
    "-x --workspace=/tmp",
    "a=b=c: {d: e} # f",
    "!!python/object/apply:os.system ['touch TRAP']",
    "*alias &anchor",
    "null",
    "\0",
    "é\u202e\ud7ff",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_one_value(text: str, interpreter: Any, tmp_path: Path) -> None:
    """It reaches the stage as it was, in one word that only --set reads; no shell, Jinja or YAML tag acts."""
    seen = tmp_path / "seen.json"
    interpreter(f"open({str(seen)!r}, 'w').write(json.dumps(sys.argv[1:]))")
    text = text.replace("TRAP", str(tmp_path / "trap"))
    given = {"source": text, "pretrained": text, "overrides": {"register.name_prefix": text}}
    operator = StageOperator(task_id="dataset", stage="dataset")
    operator.render_template_fields(context(params=given))
    operator.execute(context(params=given))
    words = json.loads(seen.read_text())
    assert not (tmp_path / "trap").exists()
    for key in ("dataset.source", "train.pretrained", "register.name_prefix"):
        (word,) = [word for word in words if word.startswith(f"--set={key}=")]
        assert yaml.safe_load(word.removeprefix(f"--set={key}=")) == text
    assert [word.partition("=")[0] for word in words[3:]] == [
        *("--workspace", "--run-id", "--set", "--set", "--set", "--set", "--params", "--json")
    ]


@pytest.mark.parametrize(
    "key", ["--json", "a", "train", "x y.z", "train.", ".train", "a.b\n", "__class__.x", ""]
)
def test_override_is_section_and_key(key: str) -> None:
    refuse({"overrides": {key: 1}}, "is not written section.key")


@pytest.mark.parametrize("key", [*FIXED, "promote.rules.ap", "tracking.uri", "airflow.backend"])
def test_override_of_what_is_set_in_params_only(key: str) -> None:
    key = key if "." in key else f"{key}.x"
    refuse({"overrides": {key: "/etc"}}, f"overrides: {key} is set in params.yaml only")


@pytest.mark.parametrize("path", ["..", "../secrets", "/data/../../etc", "a/.."])
def test_source_does_not_go_up(path: str) -> None:
    refuse({"source": path}, "a path may not go up")
    refuse({"overrides": {"dataset.source": path}}, "a path may not go up")


def test_endless_setting_is_refused() -> None:
    refuse({"overrides": {"train.overrides": {"x": "y" * 200_000}}}, "longer than 20000 characters")


def test_unknown_keys_are_refused() -> None:
    refuse({}, "unknown conf keys epoch; known: variants, promote, source", conf={"epoch": 3, "epochs": 3})


@pytest.mark.parametrize(
    ("source", "revision", "wanted"),
    [
        ("dvc://../data@v1/coco", "v2.0", "dvc://../data@v2.0/coco"),
        (
            "dvc://git@host:team/data.git@main/a/b",
            "feature/x",
            "dvc://git@host:team/data.git@feature%2Fx/a/b",
        ),
    ],
)
def test_revision_of_a_dvc_repository(source: str, revision: str, wanted: str) -> None:
    assert chosen({"source": source, "revision": revision})["dataset.source"] == wanted
    found = chosen({"revision": revision}, source)
    assert found["dataset.source"] == wanted, "the source of params.yaml counts where the form names none"


def test_revision_of_something_else_is_refused() -> None:
    refuse({"source": "/data/coco", "revision": "v2"}, r"only dvc://REPO@REV/PATH has one, not '/data/coco'")


def test_event_of_the_dataset_fills_the_form() -> None:
    def started_by(*extras: dict[str, Any], **params: Any) -> dict[str, Any]:
        events = {DATASET: [SimpleNamespace(extra=extra) for extra in extras]}
        return filled_form(context(params=params, triggering_asset_events=events))

    new = {"source": "dvc://../data@v1/coco", "revision": "v2", "from_rest_api": True}
    assert started_by({"revision": "v1"}, new)["source"] == new["source"]
    assert started_by({"revision": "v1"}, new)["revision"] == "v2"
    assert started_by(new, source="builtin")["source"] == "builtin", "a person's choice goes first"
    assert "revision" not in started_by({})
    for wrong in ({"source": "a\nb"}, {"revision": "--x"}, {"source": 3}, {"sources": "x"}):
        with pytest.raises(Exception, match="dataset event"):
            started_by(wrong)


def test_overrides_read_back_as_they_were() -> None:
    given = {"train.overrides": {"lr0": 1e-05}, "export.formats": ["onnx"], "train.schedule": "null"}
    found = chosen({"source": "a: b # c", "epochs": None, "overrides": given})
    assert found == {"variants": ["yolov5n"], "dataset.source": "a: b # c", **given}


def test_folders_of_runs(runs: Path) -> None:
    assert safe_name("plain-1.0_a") == "plain-1.0_a"
    strange = [
        RUN_ID,
        RUN_ID.replace(":", "_"),
        "../up",
        "..",
        "",
        "x" * 300,
        "x" * 301,
        "a/b",
        "a\0b",
        "$(x)",
    ]
    folders = [safe_name(run_id) for run_id in strange]
    assert len(set(folders)) == len(folders), "no two runs share a folder"
    for run_id in strange:
        assert Path(workspace(run_id)).parent == runs
        assert task_folder("d", run_id, "t").resolve().is_relative_to(runs.resolve())


def test_files_of_tasks_may_have_a_place_of_their_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("YOLO_MLOPS_TASKS", str(tmp_path / "tasks"))
    monkeypatch.setenv("YOLO_MLOPS_RUNS", "s3://bucket/runs")
    assert task_folder("d", "one", "t").is_relative_to(tmp_path / "tasks")


def test_form_knows_the_same_variants_as_the_detector(repo: Path) -> None:
    python = repo / ".venv/bin/python"
    if not python.exists():
        pytest.skip("no .venv beside this environment; `make test` makes it")
    program = "from yolo_core.model.variants import VARIANTS; print(*VARIANTS)"
    done = subprocess.run([python, "-c", program], cwd=repo, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(VARIANTS)


def test_form_names_keys_of_params(repo: Path) -> None:
    params = yaml.safe_load((repo / "params.yaml").read_text())
    for key in [*(key for key, _ in FORM.values()), *FIXED]:
        place = params
        for part in filter(None, key.split(".")):
            assert part in place
            place = place[part]


def chosen(params: dict[str, Any], source: str = "builtin") -> dict[str, Any]:
    """Return what a form sets, read as a stage reads it; ``source`` is that of params.yaml."""
    found = [item.split("=", 1) for item in overrides({"variants": ["yolov5n"], **params}, source)]
    assert not any("\n" in text for _, text in found)
    return {key: yaml.safe_load(text) for key, text in found}


def refuse(params: dict[str, Any], reason: str, conf: dict[str, Any] | None = None) -> None:
    """Check that the first task fails for good."""
    from airflow.sdk.exceptions import AirflowFailException

    given = context(params=params, conf=conf or {})
    with pytest.raises(AirflowFailException, match=reason):
        overrides(filled_form(given))
