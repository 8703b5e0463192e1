"""Promotions over a real MLflow server: two processes at once, and a user's words that reach it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
        patch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
        process = start_server(folder, port)
    yield f"http://127.0.0.1:{port}"
    stop_server(process)


@pytest.fixture
def registry(address: str, tmp_path: Path) -> Registry:
    client = connect(TrackingConfig(uri=address, experiment="x"), tmp_path)
    client.create_registered_model(NAME)
    return Registry(client, tmp_path / "versions", client.create_experiment("made-up"))


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of webhooks: its address, and what it was told."""
    told: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Keep the tests' output clean."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_of_two_at_once_one_loses_clearly(
    registry: Registry, address: str, repo: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    # First, as the server remembers for a minute that there was none when an alias was set.
    registry.client.create_webhook("champion", hook[0], ["model_version_alias.created"])
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
    deadline = time.monotonic() + 30
    while {"name": NAME, "alias": "champion", "version": winner} not in [one["data"] for one in hook[1]]:
        assert time.monotonic() < deadline, hook[1]
        time.sleep(0.2)
