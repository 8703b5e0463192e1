"""The table that `make demo` ends with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def summary(repo: Path, workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "scripts/summary.py"), str(workspace)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_row_per_registered_variant(repo: Path, tmp_path: Path) -> None:
    points = [
        {"image_size": 64, "preprocess_ms": 9, "inference_ms": 9, "nms_ms": 9},
        {"image_size": 96, "preprocess_ms": 1, "inference_ms": 2.5, "nms_ms": 0.75},
    ]
    for variant, score in (("yolov5n", 0.8765), ("yolov5s", None)):
        name = {"name": f"detector-{variant}", "version": "3"}
        write(tmp_path / f"registry/{variant}.json", name)
        test = {"map50": score, "map": 0.5} if score else None
        write(tmp_path / f"reports/train/{variant}.json", {"epochs": 100, "test": test})
        write(tmp_path / f"reports/study/{variant}.json", {"best": {"image_size": 96}, "points": points})
        write(tmp_path / f"exports/{variant}/parity.json", {})
        (tmp_path / f"exports/{variant}/model.onnx").touch()
    done = summary(repo, tmp_path)
    assert done.returncode == 0, done.stderr
    header, first, second, *hints = done.stdout.splitlines()
    assert header.split()[:2] == ["variant", "epochs"]
    assert first.split() == [
        *("yolov5n", "100", "0.876", "0.500", "4.2"),
        *("model.onnx", "detector-yolov5n", "version", "3"),
    ]
    assert second.split()[:4] == ["yolov5s", "100", "-", "-"], "a dataset without a test split"
    assert "http://127.0.0.1:5000" in "\n".join(hints)
    assert "--model detector-yolov5n " in "\n".join(hints)


def test_nothing_registered(repo: Path, tmp_path: Path) -> None:
    done = summary(repo, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `dvc repro` first" in done.stderr
