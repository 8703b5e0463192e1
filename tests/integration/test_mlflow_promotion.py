"""Promotions over a real MLflow server: two processes at once, and a user's words that reach it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.store import TrackingConfig, connect
from tests.components.promote.conftest import NAME, Registry
from tests.integration.mlflow_server import free_port, start_server, stop_server


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    process = start_server(folder, port)
    yield f"http://127.0.0.1:{port}"
    stop_server(process)


@pytest.fixture
def registry(address: str, tmp_path: Path) -> Registry:
    client = connect(TrackingConfig(uri=address, experiment="x"), tmp_path)
    client.create_registered_model(NAME)
    return Registry(client, tmp_path / "versions", client.create_experiment("made-up"))


def start(repo: Path, address: str, command: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "components", command, "--model", NAME, "--json"),
            *("--set", f"tracking.uri={address}", "--set", "promote.resamples=3000", *words),
        ],
        cwd=repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_at_once_one_loses_clearly(registry: Registry, address: str, repo: Path) -> None:
    first = registry.add(0.5, alias="champion")
    rivals = {registry.add(0.7, alias=None): "ada", registry.add(0.8, alias=None): "bob"}
    running = {
        version: start(
            repo, address, "promote", "--version", version, "--approve-by", who, "--expect-champion", first
        )
        for version, who in rivals.items()
    }
    ended: dict[str, Any] = {
        version: (*one.communicate(timeout=240), one.returncode) for version, one in running.items()
    }
    (winner,) = [version for version, (_, _, code) in ended.items() if code == 0]
    (loser,) = [version for version, (_, _, code) in ended.items() if code == 1]
    said = ended[loser][1]
    assert "changed meanwhile" in said or "as expected" in said, said
    assert registry.aliases() == {"champion": winner, "previous": first}
    history = start(repo, address, "history")
    out, _ = history.communicate(timeout=120)
    found = json.loads(out.splitlines()[-1])
    assert [(entry["after"], entry["who"]) for entry in found["entries"]] == [(winner, rivals[winner])]
    assert found["faults"] == []
    assert not [key for key in registry.model_tags() if key.startswith("promotion.turn.")]
