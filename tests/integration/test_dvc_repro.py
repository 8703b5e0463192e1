"""The whole pipeline under the real DVC, on a tiny setting in a repository of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

TINY: dict[str, dict[str, Any]] = {
    "dataset": {"builtin": {"train_images": 12, "val_images": 4, "test_images": 4}},
    "train": {"epochs": 1, "image_size": 64, "batch_size": 4, "cpus_per_worker": 1},
    "study": {"image_sizes": [64]},
    "export": {"formats": ["torchscript"], "parity_images": 4},
}
STAGES = (
    "dataset",
    "validate",
    "train@yolov5n",
    "study@yolov5n",
    "compare",
    "export@yolov5n",
    "register@yolov5n",
)

CODE = "components/validate/work.py"


def set_params(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for section, values in changes.items():
        params[section].update(values)
    path.write_text(yaml.safe_dump(params))


def dvc(root: Path, *words: str) -> str:
    binaries = str(Path(sys.executable).parent)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PIPELINE_"))}
    env = {**kept, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words], cwd=root, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def would_run(root: Path) -> set[str]:
    """Names of the stages that a repro would run."""
    lines = dvc(root, "repro", "--dry").splitlines()
    return {line.split("'")[1] for line in lines if line.startswith("Running stage")}


def changed(root: Path) -> set[str]:
    """Names of the stages whose own inputs, params or code differ from the last run."""
    return set(json.loads(dvc(root, "status", "--json")))


def store_of(root: Path) -> Any:
    """A client of the run's own store; what other tests of this process connected to stays out of it."""
    import mlflow

    uri = f"sqlite:///{root}/mlflow.db"
    return mlflow.MlflowClient(uri, registry_uri=uri)


@pytest.fixture(scope="module")
def project(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files that git knows or would add, run once through."""
    root = tmp_path_factory.mktemp("project")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        listed, cwd=repo, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (repo / name).is_file() and not name.startswith("tests/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repo / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    set_params(root, TINY)
    dvc(root, "repro")
    return root


def test_every_stage_ran_and_a_version_is_registered(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    assert set(lock) == set(STAGES)
    receipt = json.loads((project / "registry" / "yolov5n.json").read_text())
    assert receipt["name"] == "detector-yolov5n" and receipt["alias"] == "challenger"
    client = store_of(project)
    version = client.get_model_version_by_alias("detector-yolov5n", "challenger")
    assert str(version.version) == str(receipt["version"])


def test_stages_of_one_repro_share_one_parent_run(project: Path) -> None:
    client = store_of(project)
    experiment = client.get_experiment_by_name("yolo-mlops")
    runs = client.search_runs([experiment.experiment_id])
    parents = {run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(parents) == 1
    assert len(runs) == len(STAGES) + 1
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_second_repro_runs_nothing_and_soon(project: Path) -> None:
    started = time.monotonic()
    output = dvc(project, "repro")
    assert "Running stage" not in output
    assert time.monotonic() - started < 15  # 3 s on two idle cores; a loaded machine gets room


def test_only_what_a_param_touches_runs_again(project: Path) -> None:
    original = (project / "params.yaml").read_text()
    try:
        set_params(project, {"tracking": {"uri": "http://127.0.0.1:9"}})
        assert would_run(project) == set()
        set_params(project, {"train": {"epochs": 2}})
        again = would_run(project)
        assert "train@yolov5n" in again
        assert not again & {"dataset", "validate"}
    finally:
        (project / "params.yaml").write_text(original)


def test_another_variant_or_changed_code_touches_what_depends_on_it(project: Path) -> None:
    originals = {path: path.read_text() for path in (project / "params.yaml", project / CODE)}
    try:
        params = yaml.safe_load((project / "params.yaml").read_text())
        (project / "params.yaml").write_text(yaml.safe_dump(params | {"variants": ["yolov5n", "yolov5s"]}))
        added = {f"{name}@yolov5s" for name in ("train", "study", "export", "register")}
        assert changed(project) == {*added, "compare"}, "dvc.yaml reads the variants from params.yaml"
        (project / "params.yaml").write_text(originals[project / "params.yaml"])
        (project / CODE).write_text(originals[project / CODE] + "# changed\n")
        assert changed(project) == {"validate"}
    finally:
        for path, text in originals.items():
            path.write_text(text)


def test_another_list_of_images_set_aside_touches_all_that_read_it(project: Path) -> None:
    path = project / "data" / "dataset.quarantine.json"
    original = path.read_text()
    listed = json.loads(original)
    listed["images"].append({"path": "images/train/00001.jpg", "rules": ["box_inside"]})
    try:
        path.write_text(json.dumps(listed))
        readers = {"train@yolov5n", "study@yolov5n", "export@yolov5n"}
        assert changed(project) == {"validate", *readers}  # validate made it, so it makes it again
    finally:
        path.write_text(original)


def components(root: Path, *words: str) -> dict[str, Any]:
    """Run a command of the project's own copy and return its JSON result."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PIPELINE_"))}
    env = {**kept, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    done = subprocess.run(
        [sys.executable, "-m", "components", *words, "--json"],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_what_the_lineage_names_makes_the_same_weights_again(project: Path, tmp_path: Path) -> None:
    found = components(project, "lineage", "models:/detector-yolov5n@challenger")
    # The copy is a repository without a commit, nobody promoted, and there is no image.
    assert [word for word in found["missing"] if "commit" not in word and "dirty" not in word] == [
        "no promotions"
    ]
    assert set(found["stages"]) == {name.partition("@")[0] for name in STAGES}
    settings = [
        f"{part}.{key}={json.dumps(value)}"
        for part in ("dataset", "validate", "train")
        for key, value in found["params"][part].items()
    ]
    again = [word for setting in settings for word in ("--set", setting)]
    for stage in (["dataset"], ["validate"], ["train", "--variant", found["model"]["variant"]]):
        components(project, *stage, "--workspace", str(tmp_path), "--run-id", "again", *again)
    weights = (tmp_path / "models/yolov5n/best.safetensors").read_bytes()
    assert f"sha256:{hashlib.sha256(weights).hexdigest()}" == found["model"]["weights"]


def test_metrics_and_plots_are_shown(project: Path) -> None:
    metrics = json.loads(dvc(project, "metrics", "show", "--json"))
    assert "reports/study/yolov5n.json" in json.dumps(metrics)
    output = dvc(project, "plots", "show", "--json")
    assert "map50" in output


def test_plots_of_two_commits_are_drawn_into_each_other(project: Path) -> None:
    """The last test: it studies another size. Curves over epochs, image sizes and recall, and the times."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "add", "--all"], cwd=project, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "before"], cwd=project, check=True)
    set_params(project, {"study": {"image_sizes": [64, 96]}})
    dvc(project, "repro", "compare")
    found = json.loads(dvc(project, "plots", "diff", "HEAD", "--json", "--split"))["data"]
    expected = {
        "reports/train/yolov5n.csv": ("epoch", "map50", [1], [1]),
        "reports/study/sizes/yolov5n.csv": ("image_size", "map", [64], [64, 96]),
        "reports/study/curve/yolov5n.csv": ("recall", "precision", None, None),
        "reports/study.csv": ("inference_ms", "map", None, None),
    }
    for path, (x, y, before, after) in expected.items():
        (plot,) = (plot for name, plots in found.items() if name.endswith(path) for plot in plots)
        content = plot["anchor_definitions"]["<DVC_METRIC_DATA>"]
        rows = {rev: [row for row in content if row["rev"] == rev] for rev in ("HEAD", "workspace")}
        assert all(rows.values()), (path, content)
        assert all(x in row and y in row for each in rows.values() for row in each)
        if before is not None:
            drawn = [[float(row[x]) for row in rows[rev]] for rev in ("HEAD", "workspace")]
            assert drawn == [before, after], path
