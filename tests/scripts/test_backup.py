"""What scripts/backup.py says without servers; tests/integration/test_services.py restores a backup."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.mlflow_server import free_port


def run(repo: Path, *words: object, **environment: str) -> tuple[int, str]:
    """Return the exit code and the last line of stderr."""
    done = subprocess.run(
        [sys.executable, str(repo / "scripts/backup.py"), *map(str, words)],
        env={**os.environ, "PGHOST": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_no_client_of_postgresql(repo: Path, tmp_path: Path) -> None:
    code, said = run(repo, "backup", tmp_path / "new", PATH=str(tmp_path))
    assert (code, said) == (2, "error: psql is not on the PATH; install PostgreSQL's client")


@pytest.mark.skipif(shutil.which("psql") is None, reason="needs PostgreSQL: scripts/debian_packages.sh")
def test_no_server(repo: Path, tmp_path: Path) -> None:
    code, said = run(repo, "backup", tmp_path / "new", PGPORT=str(free_port()))
    assert (code, said) == (3, "error: PostgreSQL at 127.0.0.1 does not answer; see PGHOST and PGPORT")
    assert not list((tmp_path / "new").iterdir()), "it can be tried again"


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"files": {"a": 1}, "databases": []}'])
def test_no_manifest_of_ours(repo: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "backup.json").write_text(text)
    code, said = run(repo, "restore", tmp_path)
    assert code == 1
    assert "backup.json cannot be read" in said and "take another backup" in said


def test_a_folder_that_cannot_be_made(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = run(repo, "backup", tmp_path / "file/below")
    assert (code, said) == (2, f"error: {tmp_path}/file/below: Not a directory")
