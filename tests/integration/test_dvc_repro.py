"""The whole pipeline under the real DVC, in a clone of the repository, on the built-in dataset in miniature."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

TINY: dict[str, Any] = {
    "dataset.builtin": {"train_images": 12, "val_images": 4, "test_images": 4},
    "train.image_size": 64,
    "train.epochs": 1,
    "train.batch_size": 4,
    "study.image_sizes": [64],
    "export.formats": ["onnx"],
    "export.parity_images": 2,
}
STAGES = ["dataset", "validate", "train@yolov5n", "study@yolov5n", "compare", "export@yolov5n"]
STAGES += ["register@yolov5n"]


def test_repro_runs_everything_once(repo: Path, tmp_path: Path) -> None:
    clone = copy_repository(repo, tmp_path / "clone")
    change_params(clone, TINY)

    first = dvc(clone, "repro")
    assert sorted(ran(first)) == sorted(STAGES)
    receipt = json.loads((clone / "registry/yolov5n.json").read_text())
    assert (receipt["name"], str(receipt["version"])) == ("detector-yolov5n", "1")
    assert (clone / "mlflow.db").is_file(), "the store is in the workspace"

    before = cpu_seconds()
    second = dvc(clone, "repro")
    assert ran(second) == [], "byte code, logs or times must not count as a change"
    assert cpu_seconds() - before < 4  # of the processor: this machine may be busy with more than this test

    change_params(clone, {"tracking.uri": "sqlite:///elsewhere.db"})
    assert changed(clone) == set(), "another MLflow address re-runs nothing"
    change_params(clone, {"train.epochs": 2})
    assert changed(clone) == {"train@yolov5n"}, "and what reads from it; the dataset stays"
    change_params(clone, {"train.epochs": 1, "study.image_sizes": [96]})
    assert changed(clone) == {"study@yolov5n"}
    change_params(clone, {"study.image_sizes": [64], "variants": ["yolov5n", "yolov5s"]})
    added = {"train@yolov5s", "study@yolov5s", "export@yolov5s", "register@yolov5s", "compare"}
    assert changed(clone) == added, "a variant more needs no new dvc.yaml"
    change_params(clone, {"variants": ["yolov5n"]})
    with (clone / "components/validate/work.py").open("a") as code:
        code.write("# changed\n")
    assert changed(clone) == {"validate"}, "code that a stage names re-runs it"

    shown = json.loads(dvc(clone, "metrics", "show", "--json"))[""]["data"]
    assert {"map50", "map"} <= shown["reports/train/yolov5n.json"]["data"].keys()
    plots = json.loads(dvc(clone, "plots", "show", "--json"))["data"]
    assert {"reports/train/yolov5n.csv", "reports/study.csv"} <= {key.split("::")[-1] for key in plots}


def test_summary_of_nothing_says_what_to_do(repo: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repo / "scripts/summary.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `dvc repro` first" in done.stderr


def copy_repository(repo: Path, target: Path) -> Path:
    """Copy what git tracks, as it is in the working tree, and make it a repository."""
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], repo)
    for name in filter(None, listed.split("\0")):
        if (repo / name).is_file() and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo / name, target / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", "copy"]):
        run(["git", *command], target)
    return target


def change_params(clone: Path, changes: dict[str, Any]) -> None:
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split(".")
        place = params
        for section in sections:
            place = place[section]
        assert key in place
        place[key] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def dvc(clone: Path, *words: str) -> str:
    """Run DVC as a user does who has activated the environment."""
    return run([str(Path(sys.executable).parent / "dvc"), *words], clone)


def changed(clone: Path) -> set[str]:
    return set(json.loads(dvc(clone, "status", "--json")))


def ran(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def run(command: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command[:3])}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
