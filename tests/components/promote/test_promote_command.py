"""promote and rollback on a real registry, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig, connect

NAME = "detector-yolov5n"


class Registry:
    """A registry with versions of given figures."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def add(self, map50: float, *, digest: str = "sha256:a", alias: str | None = "challenger") -> str:
        tags = {
            "metric.map50": str(map50),
            "dataset.digest": digest,
            "evaluation.split": "test",
            "validation": "passed",
        }
        version = str(self.client.create_model_version(NAME, "file:///nowhere", tags=tags).version)
        if alias is not None:
            self.client.set_registered_model_alias(NAME, alias, version)
        return version

    @property
    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model(NAME).aliases
        return {alias: str(version) for alias, version in found.items()}

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(NAME, version).tags)

    @property
    def history(self) -> list[str]:
        tags = self.client.get_registered_model(NAME).tags
        return [tags[key] for key in sorted(tags) if key.startswith("history.")]


@pytest.fixture
def registry(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(workspace)
    client = connect(TrackingConfig(uri=None, experiment="x"), workspace)
    client.create_registered_model(NAME)
    return Registry(client)


def test_first_champion_then_a_better_one_then_back(registry: Registry, launch: Any) -> None:
    first = registry.add(0.80)
    done = launch("promote", "--model", NAME, "--approve-by", "ada", "--json")
    assert done.code == 0, done.err
    assert done.result["promoted"] is True
    assert registry.aliases == {"champion": first}
    tags = registry.tags(first)
    assert tags["promotion.approved_by"] == "ada"
    assert tags["promotion.value"] == "0.800000"
    assert tags["promotion.at"].endswith("Z")

    second = registry.add(0.85)
    assert launch("promote", "--model", NAME, "--approve-by", "bob").code == 0
    assert registry.aliases == {"champion": second, "previous": first}

    done = launch("rollback", "--model", NAME, "--approve-by", "eve", "--json")
    assert done.result == {"model": NAME, "champion": first, "previous": second}
    assert registry.aliases == {"champion": first, "previous": second}
    assert registry.tags(second)["rollback.by"] == "eve"
    assert launch("rollback", "--model", NAME).code == 0  # and forth again
    assert registry.aliases == {"champion": second, "previous": first}
    assert [entry.split(":")[0] for entry in registry.history[:3]] == [
        f"ada promoted version {first} over none",
        f"bob promoted version {second} over {first}",
        f"eve rolled back from version {second} to {first}",
    ]


def test_a_worse_challenger_is_refused_with_the_figures(registry: Registry, launch: Any) -> None:
    champion = registry.add(0.90, alias="champion")
    challenger = registry.add(0.70)
    done = launch("promote", "--model", NAME, "--json")
    assert done.code == 1
    assert (
        "map50 0.7000 of version 2 is below champion 1's 0.9000 less promote.max_drop 0.0100"
        in done.complaint
    )
    assert (done.result["passed"], done.result["promoted"]) == (False, False)
    assert registry.aliases == {"champion": champion, "challenger": challenger}
    assert launch("promote", "--model", NAME, "--set", "promote.max_drop=0.5").code == 0
    assert registry.aliases["champion"] == challenger


def test_dry_run_changes_nothing(registry: Registry, launch: Any) -> None:
    challenger = registry.add(0.80)
    done = launch("promote", "--model", NAME, "--dry-run", "--json")
    assert done.code == 0
    assert (done.result["passed"], done.result["promoted"]) == (True, False)
    assert registry.aliases == {"challenger": challenger}
    assert "promotion.at" not in registry.tags(challenger)
    assert launch("promote", "--model", NAME, "--dry-run", "--set", "promote.min_value=0.9").code == 1


def test_other_data_needs_force(registry: Registry, launch: Any) -> None:
    registry.add(0.80, alias="champion")
    registry.add(0.90, digest="sha256:b")
    done = launch("promote", "--model", NAME)
    assert done.code == 1
    assert "--force overrides" in done.complaint
    assert launch("promote", "--model", NAME, "--force").code == 0
    assert registry.aliases["champion"] == "2"


def test_a_version_by_number_and_twice(registry: Registry, launch: Any) -> None:
    version = registry.add(0.80, alias=None)
    assert launch("promote", "--model", NAME, "--version", version).code == 0
    again = launch("promote", "--model", NAME, "--version", version, "--json")
    assert again.code == 0
    assert "is the champion already" in again.result["reason"]
    assert registry.aliases == {"champion": version}


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
    assert "has no champion" in complaint("rollback", "--model", NAME)
    registry.add(0.8, alias="champion")
    assert "no previous champion to return to" in complaint("rollback", "--model", NAME)
    for version in ("7", "x"):
        assert f"has no version '{version}'" in complaint("promote", "--model", NAME, "--version", version)
    assert "the following arguments are required: --model" in complaint("promote")
    assert "promote: metric must be one of" in complaint(
        "promote", "--model", NAME, "--set", "promote.metric=f2"
    )
    (tmp_path / "empty").mkdir()
    assert "no MLflow database at" in complaint(
        "promote", "--model", NAME, "--workspace", str(tmp_path / "empty")
    )


def test_unreachable_is_three(registry: Registry, launch: Any) -> None:
    done = launch("rollback", "--model", NAME, "--set", "tracking.uri=http://127.0.0.1:1")
    assert done.code == 3
    assert "does not answer" in done.complaint
