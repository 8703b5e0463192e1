"""A path of a DVC repository at a revision.

The repository is a folder or a Git address; its remote's credentials are those that DVC takes from the
environment. The revision is resolved to a commit first, so a branch is recorded as what it was, and a
commit that is here already is not brought again. A slash in the name of a revision is written %2F.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from components.dataset.config import DatasetConfig
from components.dataset.sources.origin import open_place
from components.dataset.sources.source import Source
from yolo_core.errors import UnreachableError, UsageError

_FORM = "dvc://REPO@REV/PATH"
_ADDRESS = re.compile(r"dvc://(?P<repo>.+)@(?P<rev>[^@/]+)/(?P<path>[^@]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_JOBS = 16
# Words of Git's and DVC's complaints that speak of a network, not of the request.
_NETWORK = re.compile(
    r"could not (resolve|connect)|connection (refused|reset|timed out)|unable to access|timed out|"
    r"endpoint|temporary failure|could not read from remote",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class _Address:
    repo: str
    rev: str
    path: str
    local: bool

    def at(self, commit: str) -> str:
        """Write the address with a commit as its revision."""
        return f"dvc://{self.repo}@{commit}/{self.path}"


class _DvcRepository:
    """``dvc://REPO@REV/PATH``."""

    form = _FORM

    def takes(self, address: str) -> bool:
        """Whether it begins so."""
        return address.startswith("dvc://")

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Bring the path as it was at the revision, and read it."""
        parts = _parse(address)
        commit = _resolve(parts)
        place = _get(parts, commit, Path(config.downloads) / "dvc")
        return replace(open_place(place, parts.at(commit), config), name=Path(parts.path).name)


def _parse(address: str) -> _Address:
    matched = _ADDRESS.fullmatch(address)
    if matched is None:
        raise UsageError(f"dataset.source {address}: write it as {_FORM}, such as dvc://../data@v1/coco")
    repo, rev, path = (unquote(matched[name]) for name in ("repo", "rev", "path"))
    path = path.strip("/")
    if ".." in path.split("/") or rev.startswith("-") or repo.startswith("-"):
        raise UsageError(f"dataset.source {address}: the path must be inside the repository")
    # Others are https://host/repo.git and git@host:repo.
    local = ":" not in repo
    return _Address(repo=str(Path(repo).expanduser()) if local else repo, rev=rev, path=path, local=local)


def _resolve(address: _Address) -> str:
    """Return the commit that the revision names."""
    if _COMMIT.fullmatch(address.rev):
        return address.rev
    if address.local:
        if not Path(address.repo).is_dir():
            raise UsageError(f"dataset.source dvc://{address.repo}: there is no folder {address.repo}")
        revision = f"{address.rev}^{{commit}}"
        found = _run(
            ["git", "-C", address.repo, "rev-parse", "--verify", "--quiet", revision], address
        ).stdout
    else:
        # The line of a tag's commit ends in ^{} and comes last.
        found = _run(["git", "ls-remote", address.repo, address.rev, f"{address.rev}^{{}}"], address).stdout
        found = found.strip().rpartition("\n")[2]
    matched = _COMMIT.match(found)
    if matched is None:
        raise UsageError(
            f"{address.repo} has no revision {address.rev!r}; give a tag, a branch or a whole commit"
        )
    return matched[0]


def _get(address: _Address, commit: str, downloads: Path) -> Path:
    """Bring the path at a commit below ``downloads``, whole or not at all, and return where it is."""
    folder = downloads / hashlib.sha256(address.at(commit).encode()).hexdigest()[:32]
    place = folder / Path(address.path).name
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".coming-", dir=folder) as scratch:
        fresh = Path(scratch) / place.name
        command = [sys.executable, "-m", "dvc", "get", address.repo, address.path, "--rev", commit]
        done = _run([*command, "-o", str(fresh), "--jobs", str(_JOBS), "--quiet"], address)
        if done.returncode or not fresh.exists():
            raise _error(address, done.stderr)
        fresh.rename(place)
    return place


def _run(command: list[str], address: _Address) -> subprocess.CompletedProcess[str]:
    """Run Git or DVC without questions at a terminal."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "DVC_NO_ANALYTICS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise UsageError(
            f"{address.repo}: {command[0]} cannot be run ({error.strerror}); install it"
        ) from None
    if command[0] == "git" and done.returncode and done.stderr.strip():
        raise _error(address, done.stderr)
    return done


def _error(address: _Address, complaint: str) -> UnreachableError | UsageError:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    worst = next(
        (line for line in lines if line.startswith(("ERROR", "fatal", "error"))), (lines or ["no reason"])[-1]
    )
    text = re.sub(r"^(ERROR|fatal|error)[:\s-]*", "", worst)[:240]
    kind = UnreachableError if _NETWORK.search(complaint) else UsageError
    return kind(f"dvc://{address.repo}@{address.rev}/{address.path}: {text}")


ORIGIN = _DvcRepository()
