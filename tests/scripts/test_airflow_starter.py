"""What `make airflow` does before a server starts; tests/integration starts the servers."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def starter(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = spec_from_file_location("airflow_starter", repo / "scripts/airflow.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def test_passwords_are_made_once_and_are_private(
    starter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_USERS", raising=False)
    first = starter.passwords(tmp_path)
    assert list(first) == ["admin"]
    assert len(first["admin"]) >= 12
    assert starter.passwords(tmp_path) == first, "a restart keeps the login"
    file = tmp_path / "passwords.json"
    assert json.loads(file.read_text()) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert starter.passwords(make(tmp_path / "other")) != first
    monkeypatch.setenv("AIRFLOW_USERS", "admin:admin,eve:viewer")
    second = starter.passwords(tmp_path)
    assert second["admin"] == first["admin"], "another user changes nobody's password"
    assert second["eve"] not in first.values()


@pytest.mark.parametrize("users", ["admin", "admin:root", "admin:admin,", "a b:user", "admin:admin;x:admin"])
def test_users_without_a_role_are_refused(starter: Any, monkeypatch: pytest.MonkeyPatch, users: str) -> None:
    monkeypatch.setenv("AIRFLOW_USERS", users)
    with pytest.raises(SystemExit, match="NAME:ROLE"):
        starter.users()


def test_settings_keep_airflow_at_home(starter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    settings = starter.environment(tmp_path, 8123)
    assert settings["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert settings["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8123/execution/"
    assert settings["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert settings["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == "admin:admin"
    assert "PYTHONPATH" not in settings
    assert settings["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    secret = settings["AIRFLOW__API_AUTH__JWT_SECRET"]
    assert len(secret) == 64
    assert starter.environment(tmp_path, 8123)["AIRFLOW__API_AUTH__JWT_SECRET"] == secret
    assert stat.S_IMODE((tmp_path / "jwt_secret").stat().st_mode) == 0o600


def test_airflows_own_variables_go_before_ours(starter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://me@db/airflow")
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "8")
    monkeypatch.setenv("AIRFLOW__API__PORT", "1")
    settings = starter.environment(tmp_path, 8123)
    assert settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://me@db/airflow"
    assert settings["AIRFLOW__CORE__PARALLELISM"] == "8"
    assert settings["AIRFLOW__API__PORT"] == "8123", "AIRFLOW_PORT is what sets it"


def test_taken_port_is_said_at_once(starter: Any, repo: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert starter.taken(port)
        assert not starter.healthy(port), "what listens there is not Airflow"
        done = subprocess.run(
            [sys.executable, "scripts/airflow.py"],
            cwd=repo,
            env={**os.environ, "AIRFLOW_HOME": str(tmp_path / "home"), "AIRFLOW_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is in use; stop what uses it or set AIRFLOW_PORT\n"
    assert not (tmp_path / "home").exists()
    assert not starter.taken(port)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
