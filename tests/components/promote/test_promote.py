"""promote on a real registry, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.components.promote.conftest import NAME, Registry
from tests.components.promote.made_up import DATA


def test_a_first_champion_and_a_better_one(registry: Registry, launch: Any) -> None:
    first = registry.add(0.6)
    done = launch("promote", "--model", NAME, "--approve-by", "ada", "--reason", "the first", "--json")
    assert done.code == 0, done.err
    assert (done.result["promoted"], done.result["verdict"], done.result["champion_before"]) == (
        True,
        "PASS",
        None,
    )
    assert {row["rule"] for row in done.result["rules"]} >= {
        "run",
        "ap_floor",
        "parity",
        "validation",
        "data",
    }
    assert "ap" not in {row["rule"] for row in done.result["rules"]}
    assert registry.aliases() == {"champion": first}
    tags = registry.tags(first)
    assert tags["promotion.approved_by"] == "ada"
    assert tags["promotion.reason"] == "the first"
    assert tags["promotion.at"].endswith("Z")
    assert (tags["gate.verdict"], tags["gate.champion"], tags["gate.stopped_by"]) == ("PASS", "none", "none")

    second = registry.add(0.8)
    done = launch("promote", "--model", NAME, "--approve-by", "bob", "--json")
    assert done.code == 0, done.err
    assert registry.aliases() == {"champion": second, "previous": first}
    rules = {row["rule"]: row for row in done.result["rules"]}
    assert "interval" in rules["ap"]["text"]
    assert rules["ap"]["figures"] == [] or rules["ap"]["verdict"] == "PASS"
    run = registry.client.get_model_version(NAME, second).run_id
    kept = registry.client.download_artifacts(run, f"gates/over-{first}")
    assert json.loads((Path(kept) / "gates.json").read_text())["verdict"] == "PASS"
    page = (Path(kept) / "gates.html").read_text()
    assert "cat" in page
    assert "src=" not in page
    assert done.result["report"] == f"runs:/{run}/gates/over-{first}"


def test_a_worse_challenger_is_refused_with_every_figure(registry: Registry, launch: Any) -> None:
    champion = registry.add(0.9, alias="champion")
    challenger = registry.add(
        0.5,
        data={"validation": {"passed": False, "failed_rules": [{"rule": "box_inside", "severity": "block"}]}},
        export={"formats": {"onnx": {"verdict": "FAIL", "reasons": ["boxes differ by 3 px"]}}},
    )
    done = launch("promote", "--model", NAME, "--json")
    assert done.code == 1
    assert "the gates say FAIL" in done.complaint
    for words in ("ap: AP -", "class_drop: 2 of 2 classes", "boxes differ by 3 px", "failed box_inside"):
        assert words in done.complaint
    assert (done.result["passed"], done.result["promoted"], done.result["verdict"]) == (False, False, "FAIL")
    assert registry.aliases() == {"champion": champion, "challenger": challenger}
    assert registry.tags(challenger)["gate.stopped_by"] == "ap, class_drop, parity, validation"
    assert "promotion.at" not in registry.tags(challenger)
    said = launch("promote", "--model", NAME)
    assert said.code == 1
    assert sum(line.startswith("FAIL ") for line in said.out.splitlines()) == 4
    off = [f"promote.rules.{rule}=off" for rule in ("ap", "class_drop", "parity", "validation")]
    words = [word for assignment in off for word in ("--set", assignment)]
    assert launch("promote", "--model", NAME, *words).code == 0
    assert registry.aliases()["champion"] == challenger


def test_what_cannot_be_told_has_words_of_its_own(registry: Registry, launch: Any) -> None:
    registry.add(0.70, alias="champion")
    challenger = registry.add(0.70, seed=1)  # as good, on other images
    done = launch("promote", "--model", NAME, "--json")
    assert done.code == 1
    assert "the gates say INSUFFICIENT: the data cannot tell" in done.complaint
    assert "images like these" in done.complaint
    assert done.result["verdict"] == "INSUFFICIENT"
    assert "champion" in registry.aliases()
    done = launch("promote", "--model", NAME, "--set", "promote.insufficient=warn", "--json")
    assert done.code == 0, done.err
    assert "with warnings: ap" in done.result["reason"]
    assert registry.aliases()["champion"] == challenger


def test_dry_run_changes_nothing(registry: Registry, launch: Any, tmp_path: Path) -> None:
    registry.add(0.8)
    before = registry.everything()
    done = launch(
        "promote", "--model", NAME, "--dry-run", "--json", "--copy-to", "production", "--out", "report"
    )
    assert done.code == 0, done.err
    assert (done.result["passed"], done.result["promoted"], done.result["dry_run"]) == (True, False, True)
    assert any("copy version 1 to production" in step for step in done.result["would"])
    assert launch("promote", "--model", NAME, "--dry-run", "--set", "promote.min_ap=0.95").code == 1
    assert registry.everything() == before
    assert (tmp_path / "report" / "gates.html").is_file()


@pytest.mark.parametrize(
    ("status", "words"),
    [("FAILED", "is FAILED, not FINISHED"), ("RUNNING", "is RUNNING"), ("KILLED", "is KILLED")],
)
def test_nothing_comes_from_a_run_that_did_not_end_well(
    registry: Registry, launch: Any, status: str, words: str
) -> None:
    registry.add(0.8, status=status)
    done = launch("promote", "--model", NAME)
    assert done.code == 1
    assert words in done.complaint


def test_nor_from_a_pipeline_run_whose_stage_failed(registry: Registry, launch: Any) -> None:
    experiment = registry.client.get_experiment_by_name("made-up").experiment_id
    parent = registry.client.create_run(experiment, run_name="pipeline").info.run_id
    for stage, variant, status in (("export", "yolov5n", "FAILED"), ("train", "yolov5s", "FAILED")):
        tags = {"mlflow.parentRunId": parent, "pipeline.stage": stage, "pipeline.variant": variant}
        run = registry.client.create_run(experiment, run_name=f"{stage} {variant}", tags=tags)
        registry.client.set_terminated(run.info.run_id, status)
    registry.add(0.8, tags={"mlflow.parentRunId": parent, "pipeline.variant": "yolov5n"})
    done = launch("promote", "--model", NAME, "--json")
    assert done.code == 1
    assert "export yolov5n" in done.complaint
    assert "yolov5s" not in done.complaint  # another variant's run says nothing of this one


def test_a_version_that_is_not_ready_or_has_no_run(registry: Registry, launch: Any) -> None:
    version = str(registry.client.create_model_version(NAME, "file:///nowhere").version)
    done = launch("promote", "--model", NAME, "--version", version, "--json")
    assert done.code == 1
    assert done.result["verdict"] == "INSUFFICIENT"
    assert "names no run" in done.complaint
    assert "carries no evidence" in done.complaint


def test_other_data_without_the_folder_cannot_be_told(registry: Registry, launch: Any) -> None:
    registry.add(0.6, alias="champion", dataset_digest="sha256:" + "c" * 64)
    registry.add(0.9)
    done = launch("promote", "--model", NAME, "--json")
    assert done.code == 1
    assert done.result["verdict"] == "INSUFFICIENT"
    assert f"bring dataset {DATA} there, or name its workspace with --workspace" in done.complaint


def test_nor_does_the_folder_of_another_dataset_help(
    registry: Registry, launch: Any, workspace: Path, squares: Path
) -> None:
    registry.add(0.6, alias="champion", dataset_digest="sha256:" + "c" * 64)
    registry.add(0.9)
    shutil.copytree(squares, workspace / "data" / "dataset")
    done = launch("promote", "--model", NAME)
    assert done.code == 1
    assert "data/dataset holds dataset sha256:" in done.complaint


def test_a_version_by_number_and_twice(registry: Registry, launch: Any) -> None:
    version = registry.add(0.8, alias=None)
    assert launch("promote", "--model", NAME, "--version", version, "--approve-by", "ada").code == 0
    again = launch("promote", "--model", NAME, "--version", version, "--json")
    assert again.code == 0
    assert "is the champion already, promoted by ada" in again.result["reason"]
    assert registry.aliases() == {"champion": version}
    retried = launch("promote", "--model", NAME, "--approve-by", "ada", "--json")  # as Airflow would
    assert (retried.code, retried.result["promoted"]) == (0, False)
    assert "has no challenger" in launch("promote", "--model", NAME, "--approve-by", "bob").complaint
    assert len([key for key in registry.model_tags() if key.startswith("audit.")]) == 1


def test_a_copy_for_production(registry: Registry, launch: Any) -> None:
    first = registry.add(0.6)
    done = launch("promote", "--model", NAME, "--copy-to", "production", "--json")
    assert done.result["copied_to"] == "production/1"
    second = registry.add(0.8)
    done = launch("promote", "--model", NAME, "--set", "promote.production_name=production", "--json")
    assert done.code == 0, done.err
    assert registry.aliases("production") == {"champion": "2", "previous": "1"}
    copy = registry.client.get_model_version("production", "2")
    assert copy.source == f"models:/{NAME}/{second}"
    done = launch("rollback", "--model", NAME, "--set", "promote.production_name=production", "--json")
    assert done.result["copied_to"] == "production/1"
    assert registry.aliases("production")["champion"] == "1"
    assert registry.aliases()["champion"] == first


def test_the_expected_champion(registry: Registry, launch: Any) -> None:
    first = registry.add(0.6)
    assert launch("promote", "--model", NAME, "--expect-champion", "none").code == 0
    registry.add(0.8)
    done = launch("promote", "--model", NAME, "--expect-champion", "none")
    assert done.code == 1
    assert f"is version {first}, not none as expected" in done.complaint
    assert launch("promote", "--model", NAME, "--expect-champion", first).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "a/../b"),
        ("--model", "x' OR '1'='1"),
        ("--model", ""),
        ("--model", "$(touch here)"),
        ("--model", "<script>"),
        ("--model", NAME, "--copy-to", "../etc"),
        ("--model", NAME, "--approve-by", "ada\nbob"),
        ("--model", NAME, "--approve-by", " "),
        ("--model", NAME, "--reason", "x" * 1001),
        ("--model", NAME, "--expect-champion", "-1"),
        ("--model", NAME, "--version", "1 OR 1"),
        ("--model", NAME, "--version", "@champion"),
        ("--model", NAME, "--workspace", "s3://bucket/prefix"),
    ],
)
def test_hostile_words_are_two(registry: Registry, launch: Any, words: tuple[str, ...]) -> None:
    registry.add(0.8)
    before = registry.everything()
    done = launch("promote", *words)
    assert done.code == 2, done.out
    assert done.complaint
    assert registry.everything() == before


def test_wrong_names_are_two(registry: Registry, launch: Any, tmp_path: Path) -> None:
    def complaint(*argv: str) -> str:
        done = launch(*argv)
        assert done.code == 2
        return str(done.complaint)

    assert f"no registered model 'detector-x' in MLflow at sqlite:///{tmp_path}" in complaint(
        "promote", "--model", "detector-x"
    )
    assert f"known: {NAME}" in complaint("rollback", "--model", "detector-x")
    assert "has no challenger" in complaint("promote", "--model", NAME)
    assert f"has no version '{7}'" in complaint("promote", "--model", NAME, "--version", "7")
    assert "the following arguments are required: --model" in complaint("promote")
    assert "promote.rules.ap must be" in complaint(
        "promote", "--model", NAME, "--set", "promote.rules.ap=maybe"
    )
    assert "min_ap must be in 0..1" in complaint("promote", "--model", NAME, "--set", "promote.min_ap=30")
    assert "size_floors knows" in complaint(
        "promote", "--model", NAME, "--set", "promote.size_floors.huge=0.1"
    )
    (tmp_path / "empty").mkdir()
    assert "no MLflow database at" in complaint(
        "promote", "--model", NAME, "--workspace", str(tmp_path / "empty")
    )


@pytest.mark.parametrize("command", ["promote", "rollback", "history"])
def test_unreachable_is_three(registry: Registry, launch: Any, command: str) -> None:
    done = launch(command, "--model", NAME, "--set", "tracking.uri=http://127.0.0.1:1")
    assert done.code == 3
    assert "does not answer" in done.complaint
