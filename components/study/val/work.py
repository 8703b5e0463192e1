"""The work of ``val``: run the model, write the folder, and log it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from components.runner import orchestrator
from components.store import TrackingConfig
from components.study.subject import Subject, check_split, open_subject
from components.study.val.findings import Findings, coco_figures, examine, write_tables
from components.study.val.page import write_page
from components.study.val.pictures import PICTURES, PICTURES_FOLDER, write_pictures
from components.study.val.results_file import read_results
from components.study.val.table import table_lines
from components.tracking import NullTracker, RunIdentity, Tracker, open_run
from components.tracking.tags import TAG_MODEL
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.evaluate import EvalSettings, Evaluation, evaluate, judge
from yolo_core.errors import UsageError
from yolo_core.export.files import digest_of
from yolo_core.metrics.nms import NmsSettings

PAGE = "report.html"
_RESULTS = ".json"
_DIGITS = 8  # of a digest, in names
# What a run in MLflow is tagged with, from what is said of the model and the data.
_TAGS = {
    "source": "model.source",
    "format": "model.format",
    "model_digest": TAG_MODEL,
    "variant": "model.variant",
    "registered_model": "model.name",
    "model_version": "model.version",
    "split": "evaluation.split",
    "image_size": "evaluation.image_size",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured on what, once it is sure that both are there and fit.

    Attributes:
        options: of the command line.
        dataset: whose split is measured.
        subject: the model; None: COCO results that were made elsewhere.
        digest: sha256 of the model or of the results.
    """

    options: argparse.Namespace
    dataset: DetectionDataset
    subject: Subject | None
    digest: str

    @property
    def title(self) -> str:
        """For people: what is measured."""
        return self.subject.title if self.subject else Path(self.options.model).stem

    @property
    def settings(self) -> EvalSettings:
        """How the model is run; UsageError says what it cannot do."""
        options = self.options
        try:
            base = EvalSettings(
                batch_size=options.batch_size,
                nms=NmsSettings(confidence=options.confidence, iou=options.iou, multi_label=True),
                precision=options.precision,
                augment=options.augment,
            )
            return self.subject.settings(options.image_size, base) if self.subject else base
        except ValueError as error:
            raise UsageError(f"{error}; see `python -m components val --help`") from None

    @property
    def about(self) -> dict[str, Any]:
        """What a report says of model, data and settings."""
        dataset, split, settings = self.dataset, self.options.split, self.settings
        data = {"dataset": dataset.name, "dataset_digest": dataset.digest, "split": split}
        if self.subject is None:
            return {
                "source": self.options.model,
                "format": "COCO results",
                "model_digest": self.digest,
                **data,
            }
        return {
            **self.subject.about,
            **data,
            "image_size": settings.image_size,
            "shape": "rectangular" if settings.rectangular else "square",
            "batch_size": settings.batch_size,
            "confidence": settings.nms.confidence,
            "iou": settings.nms.iou,
            "run_precision": settings.precision,
            "augment": settings.augment,
            "device": settings.device,
        }

    def measure(self) -> Evaluation:
        """Run the model on the split, or judge the results that were made elsewhere."""
        split, settings = self.options.split, self.settings
        if self.subject is None:
            rows = read_results(Path(self.options.model), self.dataset, split)
            return judge(self.dataset, split, self.options.image_size or 0, rows)
        images = self.dataset.splits[split].images
        name = f"val {self.title} {settings.image_size} px"
        with tqdm(total=images, desc=name, unit="image", file=sys.stderr, disable=None, leave=False) as bar:
            evaluation = evaluate(self.subject.model, self.dataset, split, settings, progress=bar.update)
        if not evaluation.detections:
            _log.warning("%s detects nothing at all: is it trained?", self.subject.source)
        return evaluation


def run(options: argparse.Namespace, tracking: TrackingConfig) -> tuple[dict[str, Any], list[str]]:
    """Measure what a command line asks for; returns the result as JSON, and the table's lines.

    Raises:
        UsageError: no such model, other classes than the dataset's, a setting that the model cannot follow,
            or a folder that cannot be written.
        DataError: the dataset is broken or has no boxes, or a detection is not finite.
        UnreachableError: MLflow does not answer.
    """
    root = Path(options.workspace).resolve()
    request = _request(options, tracking, root)
    tracker: Tracker = open_run(tracking, root, _identity(request)) if options.track else NullTracker()
    with tracker:
        folder = _make_folder(options.out or root / "runs/val" / _slug(request))
        evaluation = request.measure()
        findings = examine(evaluation)
        about = {**request.about, "images": len(evaluation.rows)}
        images = _write(findings, request.title, about, folder)
        _track(tracker, findings, about, folder)
    result = {
        "model": options.model,
        "about": about,
        "metrics": headline(findings),
        "out": str(folder),
        "report": str(folder / PAGE),
        "mlflow_uri": tracker.uri,
        "mlflow_run_id": tracker.run_id,
    }
    return result, [*table_lines(request.title, findings, images), f"report: {folder / PAGE}"]


def _request(options: argparse.Namespace, tracking: TrackingConfig, root: Path) -> Request:
    """Open data and model, and find what does not fit before anything is measured or logged."""
    dataset = open_dataset(options.data or root / "data/dataset")
    check_split(dataset, options.split)
    if options.model.endswith(_RESULTS):
        path = Path(options.model)
        if not path.is_file():
            raise UsageError(f"no COCO results at {path}; check the path")
        return Request(options=options, dataset=dataset, subject=None, digest=digest_of(path))
    subject = open_subject(
        options.model, device=options.device, fmt=options.format, tracking=tracking, root=root
    )
    subject.check_classes(dataset)
    request = Request(options=options, dataset=dataset, subject=subject, digest=subject.digest)
    assert request.settings  # says what the model cannot do
    return request


def _make_folder(folder: Path) -> Path:
    """Make the folder, without the pictures of another evaluation."""
    try:
        (folder / PICTURES_FOLDER).mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            (folder / PICTURES_FOLDER / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); pass another --out") from None
    return folder


def _write(findings: Findings, title: str, about: Mapping[str, Any], folder: Path) -> list[dict[str, object]]:
    """Write the folder; returns what is said of the images with errors, the worst first."""
    try:
        write_tables(findings, about, folder)
        images = write_pictures(findings, folder / PICTURES_FOLDER)
        write_page(folder / PAGE, title, about, (findings, images))
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror}); pass another --out") from None
    return images


def _identity(request: Request) -> RunIdentity:
    """Name the run: evaluations on one dataset share a parent; the same one again goes on in its run."""
    size = request.settings.image_size if request.subject else ""
    what = request.title.replace("'", "").replace("`", "")  # MLflow's queries have them as quotes
    name = f"{what} {request.options.split} {size} {_short(request.digest)}"
    return RunIdentity(
        run_id=f"val-{_short(request.dataset.digest)}",
        stage="val",
        variant=" ".join(name.split()),
        orchestrator=orchestrator(),
    )


def _track(tracker: Tracker, findings: Findings, about: Mapping[str, Any], folder: Path) -> None:
    """Log what people filter and compare by, and the folder."""
    dataset = findings.evaluation.dataset
    tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "evaluation")
    tracker.set_tags({tag: about[key] for key, tag in _TAGS.items() if key in about})
    tracker.log_params({f"val.{key}": value for key, value in about.items() if key not in _TAGS})
    tracker.log_metrics(headline(findings))
    tracker.log_artifact(folder, "val")


def headline(findings: Findings) -> dict[str, float | None]:
    """Return the figures of the whole split by name, as the study's points name them."""
    metrics = findings.evaluation.metrics
    names = ("map", "map50", "map75", "precision", "recall", "f1", "best_confidence")
    return {
        **{name: round(float(getattr(metrics, name)), 6) for name in names},
        **{f"coco_{key}": value for key, value in coco_figures(findings.coco.overall).items()},
        **{f"ap50_cost_{kind}": round(found.ap_loss, 6) for kind, found in findings.errors.kinds.items()},
        "calibration_error": round(findings.calibration_error_used, 6),
    }


def _slug(request: Request) -> str:
    """Name a folder by what was measured."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in request.title)
    name = plain.replace("--", "-").strip("-")
    return f"{name}-{request.options.split}-{_short(request.digest)}"


def _short(digest: str) -> str:
    return digest.rpartition(":")[2][:_DIGITS]
