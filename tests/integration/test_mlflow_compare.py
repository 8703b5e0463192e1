"""Two studies in a real MLflow: its own pages, in a real browser, compare them and draw their curves."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from components.config import load_section
from components.job import Job
from components.store import TrackingConfig
from components.study.config import StudyConfig
from components.study.study import run
from components.tracking import RunIdentity, open_run
from components.workspace import Workspace
from yolo_core import load_checkpoint, save_checkpoint
from yolo_core.data.coco import ClassTable, SourceImage, write_dataset

from .test_mlflow_server import start_server, stop_server

SIZES = (64, 96, 128)


@pytest.fixture(scope="module")
def screenshots(repo: Path) -> ModuleType:
    """The script that takes the documentation's pictures: the test walks its way."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and its driver: scripts/debian_packages.sh installs them")
    spec = importlib.util.spec_from_file_location("screenshots", repo / "scripts" / "screenshots.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_server(tmp_path_factory.mktemp("mlflow"), port)
    yield f"http://127.0.0.1:{port}"
    stop_server(process)


@pytest.fixture(scope="module")
def studies(
    server: str,
    repo: Path,
    assets: Path,
    coco128: tuple[list[SourceImage], ClassTable],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """Ids of two runs of the study stage: yolov5n as it was released, and with noise in its weights."""
    root = tmp_path_factory.mktemp("studies")
    images, classes = coco128
    splits = {"train": images[:1], "test": images[:6]}
    write_dataset(root / "data/dataset", splits, classes, name="photos", source="COCO128")
    model = load_checkpoint(assets / "weights/yolov5n.pt")
    found = []
    for variant, noise in (("yolov5n", 0.0), ("yolov5s", 0.05)):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(noise * weight.std() * torch.randn_like(weight))
        (root / "models" / variant).mkdir(parents=True)
        save_checkpoint(model, root / "models" / variant / "best.safetensors", {})
        found.append(study(server, repo, root, variant))
    return found


def study(server: str, repo: Path, root: Path, variant: str) -> str:
    params = yaml.safe_load((repo / "params.yaml").read_text(encoding="utf-8"))
    config = replace(load_section(params, "study", StudyConfig), image_sizes=SIZES, timed_images=2)
    identity = RunIdentity(run_id="r1", stage="study", variant=variant, orchestrator="cli")
    (root / "reports/study").mkdir(parents=True, exist_ok=True)
    with open_run(TrackingConfig(uri=server, experiment="yolo-mlops"), root, identity) as tracker:
        place = Workspace(root=root, uri=str(root))
        job = Job(
            stage="study", variant=variant, workspace=place, tracker=tracker, run_id="r1", params=params
        )
        run(config, job)
        return tracker.run_id


def test_points_are_metrics_with_the_size_as_step_and_tags_tell_runs_apart(
    server: str, studies: list[str]
) -> None:
    import mlflow

    client = mlflow.MlflowClient(server)
    for run_id in studies:
        for metric in ("map", "map50", "coco_ap", "total_ms", "inference_ms"):
            assert tuple(point.step for point in client.get_metric_history(run_id, metric)) == SIZES
    one, other = (client.get_run(run_id).data.tags for run_id in studies)
    assert one["dataset.digest"] == other["dataset.digest"] and one["model.digest"] != other["model.digest"]
    query = f"tags.`pipeline.variant` = 'yolov5s' and tags.`dataset.digest` = '{one['dataset.digest']}'"
    experiment = client.get_experiment_by_name("yolo-mlops").experiment_id
    assert [run.info.run_id for run in client.search_runs([experiment], query)] == [studies[1]]


def test_mlflow_compares_both_and_draws_their_curves(
    server: str, studies: list[str], screenshots: ModuleType, tmp_path: Path
) -> None:
    """`study_curves` waits for both runs and for a curve of each; here the curves are read."""
    driver = screenshots.browser()
    try:
        experiment = screenshots._rest(server, "experiments/get-by-name?experiment_name=yolo-mlops")
        runs = screenshots.latest_runs(server, experiment["experiment"]["experiment_id"], "study ", 2)
        assert [run["run_id"] for run in runs] == studies
        screenshots.study_curves(driver, server, runs, "map", tmp_path / "curves.png")
        drawn: list[Any] = driver.execute_script(
            "return [...document.querySelectorAll('.js-plotly-plot')].flatMap("
            "plot => plot.data.map(trace => [trace.name, [...trace.x], [...trace.y]]))"
        )
    finally:
        driver.quit()
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    curves = {name: (tuple(x), y) for name, x, y in drawn}
    assert len(curves) == 2, json.dumps(drawn)
    for label, run_id in zip(("yolov5n", "yolov5s"), studies, strict=True):
        sizes, values = next(curve for name, curve in curves.items() if label in name)
        history = screenshots._rest(server, f"metrics/get-history?run_id={run_id}&metric_key=map")["metrics"]
        assert sizes == SIZES
        assert values == pytest.approx([point["value"] for point in history])
