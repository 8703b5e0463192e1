"""The tags that say what made a result."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.provenance import UNKNOWN, git_commit, provenance


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let every test ask anew, in an empty folder."""
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    monkeypatch.delenv("IMAGE_DIGEST", raising=False)
    monkeypatch.chdir(tmp_path)
    provenance.cache_clear()
    yield
    provenance.cache_clear()


def git(*words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(
        ["git", *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_outside_a_repository_the_commit_is_unknown() -> None:
    assert git_commit() == UNKNOWN
    assert provenance()["source.dirty"] == UNKNOWN


def test_a_changed_file_makes_the_checkout_dirty(tmp_path: Path) -> None:
    git("init", "-q")
    file = tmp_path / "a.txt"
    file.write_text("one")
    git("add", "a.txt")
    git("commit", "-q", "-m", "one")
    assert provenance()["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    assert provenance()["source.dirty"] == "no"
    file.write_text("two")
    provenance.cache_clear()
    assert provenance()["source.dirty"] == "yes"


def test_an_image_says_its_commit_and_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "abc123")
    monkeypatch.setenv("IMAGE_DIGEST", "sha256:1")
    assert provenance()["mlflow.source.git.commit"] == "abc123"
    assert provenance()["environment.image"] == "sha256:1"


def test_the_lock_is_the_repositorys(repo: Path) -> None:
    lock = (repo / "requirements/ml.txt").read_bytes()
    assert provenance()["environment.lock"] == f"sha256:{hashlib.sha256(lock).hexdigest()}"
