"""What made a result: commit, code, locked packages and image, as tags that every run bears."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from components.code import code_digest, package_folders

TAG_COMMIT = "mlflow.source.git.commit"  # the key that MLflow's pages show
TAG_DIRTY = "source.dirty"
TAG_CODE = "source.digest"
TAG_LOCK = "environment.lock"
TAG_PACKAGES = "environment.packages"
TAG_PYTHON = "environment.python"
TAG_IMAGE = "environment.image"
UNKNOWN = "unknown"
_LOCK = Path("requirements/ml.txt")
_GIT_SECONDS = 10


@cache
def provenance() -> dict[str, str]:
    """Return the tags; what cannot be told is "unknown", and no image is "none".

    ``source.dirty`` is yes when the checkout differs from its commit, ``source.digest`` is the SHA-256 of
    this project's Python files, ``environment.lock`` of requirements/ml.txt, and ``environment.packages`` of
    the names and versions that are installed, which may differ from the lock.
    """
    return {
        TAG_COMMIT: git_commit(),
        TAG_DIRTY: _dirty(),
        TAG_CODE: f"sha256:{code_digest()}",
        TAG_LOCK: _lock_digest(),
        TAG_PACKAGES: _packages_digest(),
        TAG_PYTHON: platform.python_version(),
        TAG_IMAGE: os.environ.get("IMAGE_DIGEST") or "none",
    }


def git_commit() -> str:
    """Return the commit of the working directory: $GIT_COMMIT (images have no .git), else git's answer."""
    return os.environ.get("GIT_COMMIT") or _git("rev-parse", "HEAD") or UNKNOWN


def _dirty() -> str:
    if os.environ.get("GIT_COMMIT"):
        return UNKNOWN  # the files may come from anywhere; their digest says
    said = _git("status", "--porcelain", "--untracked-files=no")
    return UNKNOWN if said is None else "yes" if said else "no"


def _git(*words: str) -> str | None:
    """Return what git says of the working directory; None outside a repository or without git."""
    try:
        answer = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _lock_digest() -> str:
    lock = package_folders()["components"].parent / _LOCK
    return f"sha256:{hashlib.sha256(lock.read_bytes()).hexdigest()}" if lock.is_file() else UNKNOWN


def _packages_digest() -> str:
    installed = {(found.name.lower(), found.version) for found in distributions() if found.name}
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(installed))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
