"""What all command lines share: options, results, errors; and the preview of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.cli import new_parser, show, unexpected
from components.workspace import Workspace, local_workspace
from yolo_core.errors import UsageError


def test_a_result_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "stage": "train",
        "variant": None,
        "list": ["a", "b"],
        "empty": [],
        "deep": {"map": 0.12345678, "n": 3},
    }
    show(result, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "stage: train",
        "list: a, b",
        "deep:",
        "  map: 0.123457",
        "  n: 3",
    ]


def test_a_result_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    show({"path": Path("x"), "variant": None}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"path": "x", "variant": None}


def test_wrong_options_raise_instead_of_printing() -> None:
    parser = new_parser("train", "Train.")
    with pytest.raises(
        UsageError, match="unrecognized arguments: --nope; see `python -m components train --help`"
    ):
        parser.parse_args(["--nope"])
    with pytest.raises(UsageError, match="unrecognized arguments: --work"):  # no guessing at abbreviations
        parser.parse_args(["--work", "x"])


def test_an_unforeseen_error_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    unexpected(ValueError, ValueError("a\n\nb" + "x" * 1000), None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ValueError: a bxxx")
    assert line.endswith("run again with --debug for the traceback")
    assert len(line) < 400


def test_preview_draws_the_dataset_that_is_there(
    workspace: Path, launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    done = launch("dataset", "--preview", "out.png")
    assert done.code == 2
    assert "run `python -m components dataset` first" in done.complaint
    small = [
        word for split in ("train", "val", "test") for word in ("--set", f"dataset.builtin.{split}_images=2")
    ]
    assert launch("dataset", *small).code == 0
    assert launch("dataset", "--preview", "out.png").code == 0
    for name in ("out.png", "out-training.png"):
        assert (workspace / name).read_bytes().startswith(b"\x89PNG")


def test_workspaces(tmp_path: Path) -> None:
    place = local_workspace(str(tmp_path))
    assert place.path("a/b") == tmp_path / "a" / "b"
    assert not place.is_remote
    assert Workspace(root=tmp_path, uri="s3://bucket/x").is_remote
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a folder"):
        local_workspace(str(tmp_path / "file"))
