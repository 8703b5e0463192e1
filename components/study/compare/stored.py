"""What earlier evaluations left: the detections with the report that says of what model, on what data.

Such a result is a folder, or a run in MLflow, with ``detections.json`` (COCO results) and beside it a report:
JSON with the dataset's digest and split, as the study and ``val`` write it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.store import mlflow_errors
from components.study.compare.contrast import Timing
from components.tracking.tags import TAG_DATASET, TAG_MODEL, TAG_PARENT
from yolo_core.errors import DataError, UsageError

DETECTIONS = "detections.json"
_NEEDED = ("dataset_digest", "split")
_REPORTED = ("map", "map50")
_SETTINGS = ("confidence", "iou", "augment", "precision")
_MOST = 20  # runs of one model on one dataset that are looked at, the latest first


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """A stored result: report fields as `Contestant` of `contrast` has them, and the detections.

    ``images`` is how many images were looked at; None where the report does not say. ``image_size`` is 0 for
    COCO results of another tool.
    """

    place: str
    variant: str
    model_digest: str
    dataset_digest: str
    split: str
    image_size: int
    images: int | None
    settings: Mapping[str, Any]
    reported: Mapping[str, float]
    timing: Timing | None
    detections: list[dict[str, Any]]


def read_folder(folder: Path, place: str = "") -> Stored:
    """Read a result from a folder.

    Raises:
        UsageError: there is none, or no report says what it is of.
        DataError: its files are broken.
    """
    place = place or str(folder)
    detections = folder / DETECTIONS
    if not detections.is_file():
        raise UsageError(f"{place} has no {DETECTIONS}; evaluate the model with `python -m components val`")
    for path in sorted(folder.glob("*.json")):
        report = {} if path.name == DETECTIONS else _dict(_read(path, place))
        if all(key in report for key in _NEEDED):
            return _stored(report, _results(detections, place), place)
    raise UsageError(f"{place} has {DETECTIONS} but no report that names dataset_digest and split beside it")


def read_results(path: Path, dataset_digest: str, split: str) -> Stored:
    """Read COCO results that another tool made of a split: nothing else is known of their model.

    Raises:
        DataError: the file is no list.
    """
    return Stored(
        place=str(path),
        variant="unknown",
        model_digest="unknown",
        dataset_digest=dataset_digest,
        split=split,
        image_size=0,
        images=None,
        settings={},
        reported={},
        timing=None,
        detections=_results(path, str(path)),
    )


def read_run(client: Any, run_id: str) -> Stored:
    """Read the result of a run, or of the one child of a pipeline's run that has one.

    Raises:
        UsageError: there is no such run, or none, or several of its children have a result.
        UnreachableError: MLflow does not answer.
    """
    uri = str(client.tracking_uri)
    with mlflow_errors(uri, missing=f"no run {run_id!r}"):
        run = client.get_run(run_id)
    with mlflow_errors(uri):
        if _folder_of(client, run_id) is not None:
            return _download(client, run)
        query = f"tags.`{TAG_PARENT}` = '{run_id}'"
        children = client.search_runs([run.info.experiment_id], query, max_results=1000)
        holding = [child for child in children if _folder_of(client, child.info.run_id) is not None]
        if len(holding) == 1:
            return _download(client, holding[0])
    if holding:
        named = ", ".join(f"{child.info.run_name} {child.info.run_id}" for child in holding)
        raise UsageError(f"run {run_id} holds {len(holding)} runs with detections; name one of {named}")
    raise UsageError(
        f"run {run_id} ({run.info.run_name}) has no {DETECTIONS}; name a run of study or val, or the model"
    )


def find_results(client: Any, experiment: str, model_digest: str, dataset_digest: str) -> Iterator[Stored]:
    """Yield what is stored of a model on a dataset, the latest first; runs are found by their tags."""
    with mlflow_errors(str(client.tracking_uri)):
        for run in _runs_of(client, experiment, {TAG_MODEL: model_digest, TAG_DATASET: dataset_digest}):
            if _folder_of(client, run.info.run_id) is not None:
                yield _download(client, run)


def find_timing(client: Any, experiment: str, model_digest: str, image_size: int) -> Timing | None:
    """Return the latest times of a model at a size, as a study or a measurement of speed logged them."""
    with mlflow_errors(str(client.tracking_uri)), tempfile.TemporaryDirectory(prefix="times-") as scratch:
        for run in _runs_of(client, experiment, {TAG_MODEL: model_digest}):
            for item in client.list_artifacts(run.info.run_id):
                if item.is_dir or not item.path.endswith(".json") or item.path == DETECTIONS:
                    continue
                report = _dict(
                    _read(
                        Path(client.download_artifacts(run.info.run_id, item.path, scratch)), run.info.run_id
                    )
                )
                for point in report.get("points", [report]):
                    timing = Timing.of(point, report) if point.get("image_size") == image_size else None
                    if timing is not None:
                        return timing
    return None


def read_speed(path: Path) -> tuple[str, int, Timing]:
    """Return a model's digest, the image size, and the times for the first batch size, from ``speed --json``.

    Raises:
        UsageError: the file is missing or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        batch = found["batches"][0]
        point = {f"{part}_ms": float(batch[part]["p50"]) for part in ("preprocess", "inference", "nms")}
        point |= {"total_ms": float(batch["total"]["p50"]), "timed_batch_size": int(batch["batch_size"])}
        report = {"settings": {"device": found["device"]}, "environment": found["environment"]}
        timing = Timing.of(point, report)
        assert timing is not None  # every part is there
        return str(found["model"]["model_digest"]), int(found["image_size"]), timing
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UsageError(
            f"{path} is not what `python -m components speed MODEL --json > FILE` writes; make it anew"
        ) from None


def _runs_of(client: Any, experiment: str, tags: Mapping[str, str]) -> list[Any]:
    """Return an experiment's latest runs with these tags."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    runs: list[Any] = client.search_runs(
        [found.experiment_id], query, order_by=["start_time DESC"], max_results=_MOST
    )
    return runs


def _folder_of(client: Any, run_id: str) -> str | None:
    """Return the folder of a run's artifacts, one level deep at most, that holds detections."""
    listed = client.list_artifacts(run_id)
    if any(item.path == DETECTIONS for item in listed):
        return ""
    for item in listed:
        inside = client.list_artifacts(run_id, item.path) if item.is_dir else []
        if any(each.path == f"{item.path}/{DETECTIONS}" for each in inside):
            return str(item.path)
    return None


def _download(client: Any, run: Any) -> Stored:
    run_id = run.info.run_id
    folder = _folder_of(client, run_id)
    with tempfile.TemporaryDirectory(prefix="stored-") as scratch:
        place = Path(scratch)
        for item in client.list_artifacts(run_id, folder or None):
            if not item.is_dir and item.path.endswith(".json"):
                place = Path(client.download_artifacts(run_id, item.path, scratch)).parent
        return read_folder(place, f"run {run.info.run_name} ({run_id})")


def _stored(report: Mapping[str, Any], detections: list[dict[str, Any]], place: str) -> Stored:
    """Read a study's report at its best size, or a report on one size."""
    try:
        points = report.get("points", [report])
        size = int(report["best"]["image_size"] if "best" in report else report.get("image_size") or 0)
        point = next(point for point in points if int(point.get("image_size") or 0) == size)
        figures = {**_dict(report.get("built_in")), **point}
        images, settings = point.get("images"), _dict(report.get("settings", report))
        return Stored(
            place=place,
            variant=str(report.get("variant", "unknown")),
            model_digest=str(report.get("model_digest", "unknown")),
            dataset_digest=str(report["dataset_digest"]),
            split=str(report["split"]),
            image_size=size,
            images=None if images is None else int(images),
            settings={key: settings[key] for key in _SETTINGS if key in settings},
            reported={key: float(figures[key]) for key in _REPORTED if figures.get(key) is not None},
            timing=Timing.of(point, report),
            detections=detections,
        )
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DataError(
            f"the report of {place} is broken ({type(error).__name__} {error}); evaluate the model again"
        ) from None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _results(path: Path, place: str) -> list[dict[str, Any]]:
    found = _read(path, place)
    if not isinstance(found, list):
        raise DataError(f"{path.name} of {place} is no list of COCO results; evaluate the model again")
    return found


def _read(path: Path, place: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path.name} of {place} cannot be read ({error}); evaluate the model again"
        ) from None
