"""rollback and history on a real registry, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.components.promote.conftest import NAME, Registry


def crown(registry: Registry, launch: Any, *qualities: float) -> list[str]:
    """Promote a version of each quality, one after the other."""
    versions = []
    for number, quality in enumerate(qualities):
        versions.append(registry.add(quality))
        who = ("ada", "bob", "eve", "kim")[number]
        done = launch("promote", "--model", NAME, "--approve-by", who, "--reason", f"for {number}")
        assert done.code == 0, done.err
    return versions


def test_back_and_back_again_until_there_is_none(registry: Registry, launch: Any) -> None:
    first, second, third = crown(registry, launch, 0.5, 0.7, 0.9)
    assert registry.aliases() == {"champion": third, "previous": second}
    done = launch("rollback", "--model", NAME, "--approve-by", "kim", "--reason", "it misses cats", "--json")
    assert done.code == 0, done.err
    assert (done.result["champion"], done.result["champion_before"]) == (second, third)
    assert done.result["previous"] == first
    assert registry.aliases() == {"champion": second, "previous": first}
    assert registry.tags(third)["rollback.by"] == "kim"
    said = launch("rollback", "--model", NAME)
    assert said.code == 0
    assert f"version {first} of {NAME} is champion again instead of version {second}" in said.out
    assert "there is no champion before it" in said.out
    assert registry.aliases() == {"champion": first}
    done = launch("rollback", "--model", NAME)
    assert done.code == 2
    assert f"has no previous champion to return to; champion is version {first}" in done.complaint


def test_a_retry_does_not_go_back_twice(registry: Registry, launch: Any) -> None:
    first, second, third = crown(registry, launch, 0.5, 0.7, 0.9)
    words = ("rollback", "--model", NAME, "--expect-champion", third, "--json")
    once, again = launch(*words), launch(*words)
    assert (once.code, again.code) == (0, 0)
    assert once.result == again.result
    assert registry.aliases() == {"champion": second, "previous": first}
    done = launch("rollback", "--model", NAME, "--expect-champion", first)
    assert done.code == 1
    assert f"is version {second}, not {first} as expected" in done.complaint


def test_a_deleted_champion_is_named_with_what_is_left(registry: Registry, launch: Any) -> None:
    first, second, third = crown(registry, launch, 0.5, 0.7, 0.9)
    registry.client.delete_model_version(NAME, second)
    assert registry.aliases() == {"champion": third}  # MLflow drops the alias without a word
    done = launch("rollback", "--model", NAME)
    assert done.code == 2
    assert f"version {second}, the champion of {NAME} before {third}, was deleted" in done.complaint
    assert f"--to: {first}" in done.complaint
    assert "was never champion, or was deleted" in launch("rollback", "--model", NAME, "--to", "9").complaint
    assert "is the champion already" in launch("rollback", "--model", NAME, "--to", third).complaint
    assert launch("rollback", "--model", NAME, "--to", first, "--dry-run").code == 0
    assert registry.aliases() == {"champion": third}
    assert launch("rollback", "--model", NAME, "--to", first).code == 0
    assert registry.aliases() == {"champion": first}
    registry.client.delete_model_version(NAME, first)
    assert "has no champion to roll back from" in launch("rollback", "--model", NAME).complaint


def test_history_tells_it_all(registry: Registry, launch: Any) -> None:
    assert launch("history", "--model", NAME).code == 2  # nothing yet
    first, second = crown(registry, launch, 0.5, 0.7)
    launch("rollback", "--model", NAME, "--approve-by", "eve", "--reason", "it misses dogs")
    done = launch("history", "--model", NAME)
    assert done.code == 0
    heads, *rows = done.out.splitlines()
    assert heads.split()[:4] == ["#", "when", "(UTC)", "who"]
    assert [row.split()[3:7] for row in rows] == [
        ["ada", "promote", "-", first],
        ["bob", "promote", first, second],
        ["eve", "rollback", second, first],
    ]
    assert rows[2].endswith("it misses dogs")
    found = launch("history", "--model", NAME, "--json").result
    assert found["champion"] == first
    assert found["faults"] == []
    assert [entry["verdict"] for entry in found["entries"]] == ["PASS", "PASS", ""]
    assert found["entries"][1]["evidence"].startswith("sha256:")
    assert found["entries"][1]["parent"].startswith("sha256:")


def test_history_outlives_versions_and_the_model(registry: Registry, launch: Any) -> None:
    _, second = crown(registry, launch, 0.5, 0.7)
    run = registry.client.get_model_version(NAME, second).run_id
    registry.client.delete_model_version(NAME, second)
    registry.client.delete_run(run)
    assert f"{second} (deleted)" in launch("history", "--model", NAME).out
    registry.client.delete_registered_model(NAME)
    found = launch("history", "--model", NAME, "--json")
    assert found.code == 0, found.err
    assert [entry["who"] for entry in found.result["entries"]] == ["ada", "bob"]
    assert all(entry["complete"] for entry in found.result["entries"])
    # The evidence is still there, too.
    audit = registry.client.get_experiment_by_name("yolo-mlops-audit")
    (kept,) = registry.client.search_runs([audit.experiment_id])
    folder = registry.client.download_artifacts(kept.info.run_id, found.result["entries"][1]["report"])
    assert json.loads((Path(folder) / "gates.json").read_text())["version"] == second
    # A model of the same name goes on counting.
    registry.client.create_registered_model(NAME)
    registry.add(0.6)
    assert launch("promote", "--model", NAME, "--json").result["entry"] == 3


def test_a_changed_record_shows(registry: Registry, launch: Any) -> None:
    crown(registry, launch, 0.5, 0.7)
    entry = json.loads(registry.model_tags()["audit.000001"])
    registry.client.set_registered_model_tag(NAME, "audit.000001", json.dumps({**entry, "who": "mallory"}))
    done = launch("history", "--model", NAME)
    assert done.code == 0
    assert "the record was changed: entry 1 differs" in done.err
    assert "ada" in done.out
    assert "mallory" not in done.out
    audit = registry.client.get_experiment_by_name("yolo-mlops-audit")
    (kept,) = registry.client.search_runs([audit.experiment_id])
    registry.client.delete_run(kept.info.run_id)
    faults = launch("history", "--model", NAME, "--json").result["faults"]
    assert faults == ["entry 1 is not what it was when entry 2 was written"]
    registry.client.delete_registered_model_tag(NAME, "audit.000001")
    assert launch("history", "--model", NAME, "--json").result["faults"] == ["entry 1 is missing"]
