"""A real registry with versions that have runs and evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig, connect
from tests.components.promote.made_up import NAMES, facts, made_up_matches, write_evidence

NAME = "detector-yolov5n"


class Registry:
    """A registry, and what is asked of it in tests."""

    def __init__(self, client: Any, scratch: Path, experiment: str) -> None:
        self.client, self._scratch, self._experiment, self._count = client, scratch, experiment, 0
        self.name = NAME

    def add(
        self,
        quality: float | Mapping[str, float] = 0.7,
        *,
        alias: str | None = "challenger",
        status: str = "FINISHED",
        evidence: bool = True,
        tags: Mapping[str, str] | None = None,
        names: tuple[str, ...] = NAMES,
        seed: int = 0,
        **changes: Any,
    ) -> str:
        """Register a version of a quality; ``changes`` are of its evidence."""
        self._count += 1
        about = facts(**changes)
        run = self.client.create_run(self._experiment, run_name="register yolov5n", tags=dict(tags or {}))
        folder = self._scratch / f"model-{self._count}"
        matches = made_up_matches(quality, names=names, seed=seed)
        if evidence:
            write_evidence(folder / "artifacts" / "evidence", matches, about, names)
        else:
            folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}\n", encoding="utf-8")
        self.client.log_artifacts(run.info.run_id, str(folder), "model")
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status)
        said = {"model.digest": about["model_digest"], "dataset.digest": about["dataset_digest"]}
        version = str(
            self.client.create_model_version(
                self.name, f"{run.info.artifact_uri}/model", run_id=run.info.run_id, tags=said
            ).version
        )
        if alias is not None:
            self.client.set_registered_model_alias(self.name, alias, version)
        return version

    def aliases(self, name: str | None = None) -> dict[str, str]:
        found = self.client.get_registered_model(name or self.name).aliases
        return {alias: str(version) for alias, version in found.items()}

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.name, version).tags)

    def model_tags(self) -> dict[str, str]:
        return dict(self.client.get_registered_model(self.name).tags)

    def everything(self) -> dict[str, Any]:
        """All that a command might change."""
        experiments = {each.name: each.experiment_id for each in self.client.search_experiments()}
        runs = self.client.search_runs(list(experiments.values()), max_results=1000)
        return {
            "aliases": self.aliases(),
            "tags": self.model_tags(),
            "versions": {
                v.version: dict(v.tags) for v in self.client.search_model_versions(f"name = '{self.name}'")
            },
            "runs": {
                run.info.run_id: sorted(item.path for item in self.client.list_artifacts(run.info.run_id))
                for run in runs
            },
            "experiments": sorted(experiments),
        }


@pytest.fixture
def registry(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Registry:
    monkeypatch.chdir(workspace)
    client = connect(TrackingConfig(uri=None, experiment="x"), workspace)
    client.create_registered_model(NAME)
    place = (workspace / "mlartifacts").as_uri()
    experiment = client.create_experiment("made-up", artifact_location=place)
    return Registry(client, tmp_path_factory.mktemp("versions"), experiment)
