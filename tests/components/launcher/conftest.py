"""Stages whose work is the test's."""

from __future__ import annotations

import json
import sys
import tempfile
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components import runner
from yolo_core.errors import GateError


@dataclass
class Stages:
    """Which stages ran, and whether ``validate`` says no.

    ``dataset`` writes a second image if it is named, and first does what ``hook`` says.
    """

    calls: list[str]
    refuse: bool = False
    image: bytes = b"image"
    second: str | None = None
    hook: Callable[[], None] | None = None

    def dataset(self, config: Any, job: Any) -> dict[str, Any]:
        """Write two files."""
        self.calls.append("dataset")
        if self.hook is not None:
            self.hook()
        folder = job.path("data/dataset")
        (folder / "images").mkdir(parents=True)
        (folder / "dataset.json").write_text(
            json.dumps({"digest": f"sha256:{config.seed}"}), encoding="utf-8"
        )
        (folder / "images" / "1.jpg").write_bytes(self.image)
        if self.second is not None:
            (folder / "images" / self.second).write_bytes(b"more")
        return {"digest": f"sha256:{config.seed}"}

    def validate(self, _config: Any, job: Any) -> dict[str, Any]:
        """Read one and write a report."""
        self.calls.append("validate")
        assert job.path("data/dataset/images/1.jpg").read_bytes() == b"image"
        job.path("reports/validation").mkdir()
        job.path("reports/validation/index.html").touch()
        job.path("data/dataset.quarantine.json").touch()
        job.path("reports/validation.json").write_text(
            json.dumps({"success": not self.refuse}), encoding="utf-8"
        )
        if self.refuse:
            raise GateError("the data said no")
        return {}


@pytest.fixture
def prefix(s3: Any, workspace: Path, stages: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in the bucket for stages of the test, with scratch folders in ``tmp``."""
    monkeypatch.chdir(workspace)
    (workspace / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(workspace / "tmp"))
    return uuid.uuid4().hex


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Let small functions be the work of ``dataset`` and ``validate``, under their own configuration."""
    stages = Stages(calls=[])
    module = types.ModuleType("stages_of_the_test")
    module.__dict__.update(dataset=stages.dataset, validate=stages.validate)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("dataset", "validate"):
        monkeypatch.setitem(runner.WORK, name, (runner.WORK[name][0], f"{module.__name__}:{name}"))
    return stages
