"""The command compare-models with all that it takes, from folders to registered versions, and bad input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from components.store import TrackingConfig
from components.tracking import RunIdentity, open_run
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.quarantine import write_quarantine

from .contest import draw_dataset, find_boxes, store_result, study_report

Launch = Callable[..., Any]
QUICK = ("--set", "compare.resamples=100")


@pytest.fixture
def data(workspace: Path) -> DetectionDataset:
    return draw_dataset(workspace / "data" / "dataset")


@pytest.fixture
def compare(launch: Launch, workspace: Path) -> Launch:
    def run(*words: object) -> Any:
        place = (*QUICK, "--params", workspace / "params.yaml", "--workspace", workspace)
        return launch("compare-models", *place, *words)

    return run


def log_result(
    root: Path, dataset: DetectionDataset, stage: str, label: str, **changes: Any
) -> tuple[str, str]:
    """A run as the study or val leaves it; returns its id and its parent's."""
    identity = RunIdentity(run_id="r1", stage=stage, variant=label, orchestrator="cli")
    folder = store_result(root / f"{stage}-{label}", dataset, label, **changes)
    with open_run(TrackingConfig(uri=None, experiment="yolo-mlops"), root, identity) as tracker:
        tracker.set_tags({"model.digest": f"sha256:{label}"})
        tracker.tag_dataset(dataset.digest)
        for path in folder.iterdir():
            tracker.log_artifact(path, "val" if stage == "val" else None)
        return tracker.run_id, tracker.parent_run_id


def register(root: Path, label: str) -> None:
    """A version with the tags that the register stage gives it, and no model behind it."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    client.create_registered_model("detector")
    tags = {"model.digest": f"sha256:{label}"}
    version = client.create_model_version("detector", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("detector", "champion", version.version)


def test_folders_are_compared_written_and_logged(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    folders = [
        store_result(workspace / "runs" / label, data, label, error=error)
        for label, error in (("good", 0.03), ("poor", 0.15))
    ]
    finished = compare(*folders, "--json")
    assert finished.code == 0, finished.err
    found = finished.result
    assert [model["label"] for model in found["models"]] == ["good", "poor"]
    assert found["models"][1]["difference"]["ap"]["verdict"] == "lose" and found["paired"]
    assert found["models"][1]["speed_ratio"] == 1.0
    assert found["models"][1]["measured_on"] == "batch 1, device cpu, threads 2, Some CPU"
    out = Path(found["folder"])
    assert out == workspace / "reports" / "comparison"
    written = json.loads((out / "comparison.json").read_text())
    assert written == {key: found[key] for key in written}
    client = mlflow.MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    run = client.get_run(found["mlflow_run_id"])
    assert run.data.metrics["model_2.ap"] == written["models"][1]["ap"]["value"]
    for run_id in (run.info.run_id, run.data.tags["mlflow.parentRunId"]):
        logged = {item.path.rpartition("/")[2] for item in client.list_artifacts(run_id, "comparison")}
        assert logged == {"comparison.html", "comparison.json", "comparison.csv"}


def test_text_for_people(compare: Launch, workspace: Path, data: DetectionDataset) -> None:
    folders = [store_result(workspace / "runs" / label, data, label) for label in ("one", "two")]
    finished = compare(*folders, "--out", workspace / "here")
    assert finished.code == 0, finished.err
    lines = finished.out.splitlines()
    assert " ".join(lines[0].split()) == (
        "model AP [95%] AP50 [95%] AP to first [95%] better in verdict ms/image speed"
    )
    assert "undecided" in lines[2] and "1.00x" in lines[2]
    assert (workspace / "here" / "comparison.html").is_file()


def test_runs_of_study_and_val_and_their_parent(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    study, parent = log_result(workspace, data, "study", "alpha", error=0.03)
    alone = compare(study, parent, "--json")
    assert alone.code == 0, alone.err
    assert alone.result["models"][0]["model_digest"] == alone.result["models"][1]["model_digest"]
    val, _ = log_result(workspace, data, "val", "beta", error=0.15)
    finished = compare(study, val, "--json")
    assert finished.code == 0, finished.err
    assert [model["variant"] for model in finished.result["models"]] == ["alpha", "beta"]
    many = compare(parent, val)
    assert many.code == 2 and "holds 2 runs with detections; name one of" in many.complaint
    assert study in many.complaint and val in many.complaint


def test_a_registered_version_is_found_by_its_digest(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    """Its detections are stored, so that nothing needs to be opened; there is no model behind this one."""
    study, _ = log_result(workspace, data, "study", "alpha")
    register(workspace, "alpha")
    finished = compare("models:/detector@champion", "models:/detector/1", study, "--json")
    assert finished.code == 0, finished.err
    models = finished.result["models"]
    assert [model["label"] for model in models[:2]] == ["detector v1 (champion)", "detector v1"]
    assert {model["model_digest"] for model in models} == {"sha256:alpha"}
    assert study in models[0]["detections"]


def test_a_checkpoint_is_evaluated_and_gets_its_times(
    compare: Launch, workspace: Path, studied: Path, data: DetectionDataset
) -> None:
    from yolo_core.export.files import digest_of

    shutil.rmtree(workspace / "data")
    shutil.copytree(studied / "data", workspace / "data")
    dataset = open_dataset(workspace / "data" / "dataset")
    checkpoint = studied / "models/yolov5n/best.safetensors"
    words = (checkpoint, "--image-size", 128, "--set", "study.precision=fp32", "--json")
    first = compare(checkpoint, *words)
    assert first.code == 0, first.err
    model = first.result["models"][0]
    assert model["label"] == "yolov5n/best" and model["detections"] == "evaluated for this comparison"
    assert 0.1 < model["ap"]["value"] < 1 and 0.1 < model["map50"] < 1
    assert model["speed"] == "not measured" and model["model_digest"] == digest_of(checkpoint)
    report = {**study_report(dataset, "yolov5n"), "model_digest": digest_of(checkpoint)}
    identity = RunIdentity(run_id="r1", stage="speed", variant="n", orchestrator="cli")
    with open_run(TrackingConfig(uri=None, experiment="yolo-mlops"), workspace, identity) as tracker:
        tracker.set_tags({"model.digest": digest_of(checkpoint)})
        (workspace / "speed.json").write_text(json.dumps(report))
        tracker.log_artifact(workspace / "speed.json")
    again = compare(checkpoint, *words)
    assert again.result["models"][0]["total_ms"] == 10 and again.result["models"][1]["speed_ratio"] == 1


def test_other_images_are_refused_unless_told(
    compare: Launch, workspace: Path, data: DetectionDataset, tmp_path: Path
) -> None:
    other = draw_dataset(tmp_path / "other", seed=1)
    here = store_result(workspace / "runs" / "here", data, "here")
    there = store_result(workspace / "runs" / "there", other, "there")
    refused = compare(here, there)
    assert refused.code == 2
    assert "was measured on other images: test of" in refused.complaint
    assert "--across-datasets" in refused.complaint
    unknown = compare(here, there, "--across-datasets")
    assert unknown.code == 2 and "which no --data names; add its folder" in unknown.complaint
    words = ("--across-datasets", "--data", data.root, "--data", other.root, "--json")
    finished = compare(here, there, *words)
    assert finished.code == 0, finished.err
    assert not finished.result["paired"] and finished.result["notes"][0].startswith("NOT THE SAME IMAGES")


def test_images_that_were_set_aside_since_do_not_count_and_others_must_be_there(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    folders = [store_result(workspace / "runs" / label, data, label) for label in ("one", "two")]
    write_quarantine(data.root, data.digest, {"images/test/000.png": ["box_inside"]})
    assert compare(*folders, "--json").code == 0
    fewer = store_result(workspace / "runs" / "fewer", data, "fewer")
    report = study_report(data, "fewer")
    report["points"][0]["images"] = 20
    (fewer / "fewer.json").write_text(json.dumps(report))
    finished = compare(folders[0], fewer)
    assert finished.code == 1 and "was measured on 20 images, but test has 29 now" in finished.complaint


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda rows: [], 0, ""),
        (lambda rows: [{**rows[0], "image_id": 99999}], 1, "99999"),
        (lambda rows: [{**rows[0], "category_id": 77}], 1, "77"),
        (lambda rows: [{**rows[0], "score": float("nan")}], 1, "not finite"),
        (lambda rows: [{"image_id": 1}], 1, "detection 0 is no COCO result"),
        (lambda rows: {"rows": rows}, 1, "no list of COCO results"),
    ],
)
def test_detections_that_say_nothing_or_nonsense(
    compare: Launch, workspace: Path, data: DetectionDataset, spoil: Any, code: int, said: str
) -> None:
    good = store_result(workspace / "runs" / "good", data, "good")
    bad = store_result(workspace / "runs" / "bad", data, "bad")
    (bad / "detections.json").write_text(json.dumps(spoil(find_boxes(data, error=0.1))))
    finished = compare(good, bad, "--json")
    assert finished.code == code
    if code:
        assert said in finished.complaint and "bad" in finished.complaint
    else:
        model = finished.result["models"][1]
        assert model["ap"]["value"] == 0 and model["difference"]["ap"]["verdict"] == "lose"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{good}"], "needs two models at least"),
        (["{good}", "0123456789abcdef0123456789abcdef"], "no run '0123456789abcdef"),
        (["{good}", "models:/nobody@champion"], "no model at models:/nobody@champion"),
        (["{good}", "models:/nobody/3"], "no model at models:/nobody/3"),
        (["{good}", "models:/nobody"], "must be models:/NAME@ALIAS or models:/NAME/VERSION"),
        (["{good}", "nowhere/best.pt"], "no model and no folder at nowhere/best.pt"),
        (["{good}", "{good}", "--data", "{good}"], "dataset.json is missing"),
        (["{good}", "{good}", "--split", "night"], "test of .*, not night of"),
        (["{good}", "{good}", "--image-size", "640"], "was measured at 128 px, not 640"),
        (["{good}", "{silent}"], "no report that names dataset_digest and split"),
        (["{good}", "{broken}"], "report of .* is broken"),
        (["{good}", "{good}", "--speed", "{good}/good.json"], "is not what `python -m components speed"),
        (["{good}", "{good}", "--set", "compare.resamples=0"], "resamples must be 1 or more"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    compare: Launch, workspace: Path, data: DetectionDataset, words: list[str], said: str
) -> None:
    places = {
        label: store_result(workspace / "runs" / label, data, label) for label in ("good", "silent", "broken")
    }
    (places["silent"] / "silent.json").unlink()
    (places["broken"] / "broken.json").write_text(
        json.dumps({"dataset_digest": data.digest, "split": "test", "points": 3})
    )
    finished = compare(*(word.format(**places) for word in words))
    assert finished.code in (1, 2)
    assert re.search(said, finished.complaint), finished.complaint
    assert not (workspace / "reports").exists()


def test_a_run_without_detections_and_a_model_of_other_classes(
    compare: Launch, workspace: Path, data: DetectionDataset, studied: Path
) -> None:
    good = store_result(workspace / "runs" / "good", data, "good")
    identity = RunIdentity(run_id="r1", stage="train", variant="n", orchestrator="cli")
    with open_run(TrackingConfig(uri=None, experiment="yolo-mlops"), workspace, identity) as tracker:
        pass
    finished = compare(good, tracker.run_id)
    assert finished.code == 2 and "has no detections.json; name a run of study or val" in finished.complaint
    other = compare(good, studied / "models/yolov5n/best.safetensors")
    assert other.code == 2 and "knows other classes than" in other.complaint


def test_speeds_are_taken_from_files_that_tell_them(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    folders, files = [], []
    for label, milliseconds in (("slow", 30.0), ("fast", 12.0)):
        folders.append(store_result(workspace / "runs" / label, data, label))
        times = {part: {"p50": milliseconds / 3} for part in ("preprocess", "inference", "nms")}
        batch = {"batch_size": 1, **times, "total": {"p50": milliseconds}}
        about = {"model": {"model_digest": f"sha256:{label}"}, "image_size": 128, "device": "cpu"}
        content = {**about, "environment": {"cpu": "Quick CPU", "threads": 1}, "batches": [batch]}
        path = workspace / f"{label}.json"
        path.write_text(json.dumps(content))
        files += ["--speed", path]
    finished = compare(*folders, *files, "--json")
    assert finished.code == 0, finished.err
    fast = finished.result["models"][1]
    assert fast["speed_ratio"] == 2.5 and fast["measured_on"] == "batch 1, device cpu, threads 1, Quick CPU"
    half = compare(*folders, *files[:2], "--json").result["models"][1]
    assert half["speed_ratio"] is None and half["speed"].startswith("not comparable: measured under batch 1")


def test_results_of_another_tool_are_taken_too(
    compare: Launch, workspace: Path, data: DetectionDataset
) -> None:
    good = store_result(workspace / "runs" / "good", data, "good")
    other = workspace / "elsewhere.json"
    other.write_text(json.dumps(find_boxes(data, error=0.15)))
    finished = compare(good, other, "--json")
    assert finished.code == 0, finished.err
    model = finished.result["models"][1]
    assert (model["label"], model["model_digest"]) == ("elsewhere", "unknown")
    assert model["difference"]["ap"]["verdict"] == "lose" and model["speed"] == "not measured"
