"""A path of a real DVC repository at a revision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.dataset.sources.dvc_repository import ORIGIN
from components.dataset.work import materialise
from yolo_core.errors import UsageError

from .conftest import Make, Write, annotation, picture


def run(root: Path, *command: str) -> str:
    words = [sys.executable, "-m", "dvc", *command[1:], "-q"] if command[0] == "dvc" else list(command)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def commits() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, commits: dict[str, str]) -> Path:
    """A repository with a COCO folder under DVC: one box at v1, two on the branch main."""
    root = tmp_path_factory.mktemp("dvc") / "repository"
    folder = root / "sets" / "cats"
    (folder / "annotations").mkdir(parents=True)
    picture(folder / "train" / "a.jpg", seed=1)
    run(root, "git", "init", "-q", "-b", "main")
    run(root, "git", "config", "user.email", "someone@example.org")
    run(root, "git", "config", "user.name", "Someone")
    run(root, "dvc", "init")
    run(root, "dvc", "remote", "add", "-d", "store", str(root.parent / "store"))
    for tag, count in (("v1", 1), ("v2", 2)):
        content = {
            "images": [{"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}],
            "annotations": [annotation(id=number + 1) for number in range(count)],
            "categories": [{"id": 3, "name": "cat"}],
        }
        (folder / "annotations" / "train.json").write_text(json.dumps(content))
        run(root, "dvc", "add", "sets/cats")
        run(root, "git", "add", ".")
        run(root, "git", "commit", "-q", "-m", tag)
        run(root, "dvc", "push")
        commits[tag] = run(root, "git", "rev-parse", "HEAD")
        if tag == "v1":
            run(root, "git", "tag", "-a", "v1", "-m", "first")
    # Only the remote has the data now.
    for path in (root / ".dvc" / "cache", folder):
        subprocess.run(["rm", "-rf", str(path)], check=True)
    return root


def test_a_revision_is_brought_and_recorded_as_a_commit(
    repository: Path, commits: dict[str, str], config: Make, tmp_path: Path
) -> None:
    dataset = materialise(config(source=f"dvc://{repository}@v1/sets/cats"), tmp_path / "one")
    assert dataset.splits["train"].boxes == 1 and dataset.name == "cats"
    source = json.loads((tmp_path / "one" / "dataset.json").read_text())["source"]
    assert source == f"dvc://{repository}@{commits['v1']}/sets/cats"
    # A commit that is here is not brought again, not even asked for.
    aside = repository.rename(repository.with_name("aside"))
    try:
        assert materialise(config(source=source), tmp_path / "two").digest == dataset.digest
    finally:
        aside.rename(repository)


def test_a_repository_by_its_git_address(
    repository: Path, commits: dict[str, str], config: Make, tmp_path: Path
) -> None:
    dataset = materialise(config(source=f"dvc://file://{repository}@main/sets/cats"), tmp_path / "out")
    assert dataset.splits["train"].boxes == 2
    assert commits["v2"] in json.loads((tmp_path / "out" / "dataset.json").read_text())["source"]


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("@v9/sets/cats", "has no revision 'v9'"),
        ("@v1/sets/dogs", "sets/dogs"),
        ("@v1/../cats", "must be inside the repository"),
        ("/sets/cats", "write it as dvc://REPO@REV/PATH"),
    ],
)
def test_what_is_not_there(repository: Path, rest: str, problem: str, config: Make, tmp_path: Path) -> None:
    asked = config(source=f"dvc://{repository}{rest}")
    with pytest.raises(UsageError) as caught:
        ORIGIN.open(asked.source, asked)
    assert problem in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_repository_that_is_not_there(config: Make, tmp_path: Path) -> None:
    asked = config(source=f"dvc://{tmp_path}/none@v1/cats")
    with pytest.raises(UsageError, match="there is no folder"):
        ORIGIN.open(asked.source, asked)


def test_data_that_the_remote_lost(repository: Path, coco: Write, config: Make, tmp_path: Path) -> None:
    aside = (repository.parent / "store").rename(repository.parent / "lost")
    try:
        asked = config(source=f"dvc://{repository}@v1/sets/cats")
        with pytest.raises(UsageError, match="sets/cats"):
            ORIGIN.open(asked.source, asked)
        assert not any(path.is_file() for path in tmp_path.rglob("*"))
    finally:
        aside.rename(repository.parent / "store")
