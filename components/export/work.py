"""The export stage: one variant in every asked format, and none passes that does not equal PyTorch."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from components.export.config import ExportConfig
from components.export.report import Report, write_report
from components.export.subject import Subject, prepare
from components.job import Job
from components.scratch import scratch_folder
from yolo_core.errors import GateError, UsageError, YoloError
from yolo_core.export.backends import get_format
from yolo_core.export.isolation import Outcome, Room, Task, run_apart
from yolo_core.export.parity_evidence import record
from yolo_core.export.parity_tasks import PYTORCH

EXPORT = "yolo_core.export.parity_tasks:export_and_check"
MEASURE = "yolo_core.export.parity_tasks:measure_latency"
_SHOWN = ("verdict", "megabytes", "detect_ms", "ap_difference", "matched")

_log = logging.getLogger(__name__)

Rows = dict[str, dict[str, Any]]


def run(config: ExportConfig, job: Job) -> dict[str, Any]:
    """Write ``exports/V/`` with the parity report, ``reports/export/V.*``, and log the reports.

    Every format is written and checked in a process of its own, some at a time; then all are timed one after
    another. A process that dies takes no other format along.

    Raises:
        UsageError: something does not fit, which is found before anything is written (see
            `components.export.subject.prepare`); the place cannot be written to; or formats could not do what
            was asked for, with the others written.
        DataError: the dataset is broken.
        GateError: a format differs too much from PyTorch, or its toolkit crashed; or the evidence did not
            suffice and ``strict`` is set. The reports are written before.
    """
    subject = prepare(config, job)
    folder = _empty_folder(job.path("exports/{variant}"))
    dataset = subject.chosen.dataset
    job.tracker.log_dataset(dataset.name, dataset.digest, str(dataset.root), "parity")
    with scratch_folder("export-") as scratch:
        _record(subject, scratch)
        rows, errors = _export(config, subject, folder, scratch)
        timed = _measure(config, subject, (folder, rows), scratch)
    for name, figures in timed.items():
        if name in rows:
            rows[name] |= figures
    report = Report(subject=subject, config=config, rows=rows, pytorch=timed.get(PYTORCH, {}))
    written = write_report(report, job)
    _refuse(config, subject, rows, errors, written)
    return {
        "report": str(written),
        "ship": report.ship,
        "pytorch_detect_ms": report.pytorch.get("detect_ms"),
        **{name: {key: row.get(key) for key in _SHOWN} for name, row in rows.items()},
    }


def _empty_folder(folder: Path) -> Path:
    """Make the folder of the exports and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror or error}; choose another workspace"
        ) from None
    return folder


def _record(subject: Subject, scratch: Path) -> None:
    """Let PyTorch say what it sees."""
    chosen = subject.chosen
    known = {(chosen.split, sample.image_id) for sample in chosen.judged}
    images = len(known | {(split, sample.image_id) for split, sample in chosen.compared})
    # disable=None: no bar where stderr is a log
    with tqdm(
        total=images, desc=f"pytorch {subject.variant}", unit="image", leave=False, disable=None
    ) as bar:
        record(
            subject.model.eval(),
            chosen,
            image_size=subject.settings.image_size,
            nms=subject.settings.nms,
            folder=scratch,
            seen=bar.update,
        )


def _export(
    config: ExportConfig, subject: Subject, folder: Path, scratch: Path
) -> tuple[Rows, dict[str, YoloError]]:
    """Write and check every format; returns a row of the report for each, and why some have no file."""
    common = {
        "weights": str(subject.weights),
        "variant": subject.variant,
        "settings": subject.told(config.calibration_images),
        "evidence": str(scratch),
        "limits": asdict(config.limits),
        "enough": asdict(config.enough),
        "draws": {"resamples": config.resamples},
    }
    # Those that are calibrated take longest; begun last, one would run alone at the end.
    order = sorted(config.formats, key=lambda name: not get_format(name).calibrated)
    tasks = [
        Task(name=name, call=EXPORT, request={**common, "format": name, "folder": str(folder / f".{name}")})
        for name in order
    ]
    at_once = min(config.at_once, len(tasks), os.cpu_count() or 1)
    room = Room(
        at_once=at_once, threads=max(torch.get_num_threads() // at_once, 1), seconds=60 * config.minutes
    )
    rows: Rows = {}
    errors: dict[str, YoloError] = {}
    with tqdm(
        total=len(tasks), desc=f"export {subject.variant}", unit="format", leave=False, disable=None
    ) as bar:

        def done(name: str, outcome: Outcome) -> None:
            rows[name] = _row(name, outcome, folder)
            if outcome.error is not None:
                errors[name] = outcome.error
            _log.info("%s: %s in %.1f s", name, rows[name]["verdict"], outcome.seconds)
            bar.update()

        run_apart(tasks, scratch / "tasks", room, done)
    return {name: rows[name] for name in config.formats}, errors


def _row(name: str, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Take a finished file to its place; what an unfinished process left is deleted."""
    part = folder / f".{name}"
    if outcome.result is not None:
        (part / outcome.result["file"]).rename(folder / outcome.result["file"])
    shutil.rmtree(part, ignore_errors=True)
    return outcome.result or {"verdict": "FAIL", "reasons": [str(outcome.error).removeprefix(f"{name}: ")]}


def _measure(config: ExportConfig, subject: Subject, made: tuple[Path, Rows], scratch: Path) -> Rows:
    """Time PyTorch and all that ran, one after another, in as few processes as their toolkits allow.

    Should one of those die, its formats are timed one by one, and the guilty one has no times.
    """
    folder, rows = made
    (_, sample), *_ = subject.chosen.compared
    np.save(scratch / "image.npy", sample.read_image())
    common = {
        "variant": subject.variant,
        "image_size": subject.settings.image_size,
        "image": str(scratch / "image.npy"),
        "runs": config.latency_runs,
        "batch": config.latency_batch,
    }
    groups: dict[str, dict[str, str]] = {"alike": {PYTORCH: str(subject.weights)}, "tensorflow": {}}
    for name, row in rows.items():
        if "images" in row:
            group = "tensorflow" if "tensorflow" in get_format(name).packages else "alike"
            groups[group][name] = str(folder / row["file"])
    if not any(set(files) - {PYTORCH} for files in groups.values()):
        return {}
    room = Room(at_once=1, threads=torch.get_num_threads(), seconds=60 * config.minutes)

    def time_all(batches: Mapping[str, Mapping[str, str]], place: Path) -> dict[str, Outcome]:
        tasks = [
            Task(name=key, call=MEASURE, request={**common, "files": dict(files)})
            for key, files in batches.items()
            if files
        ]
        return run_apart(tasks, place, room)

    found: Rows = {}
    again: dict[str, Mapping[str, str]] = {}
    for key, outcome in time_all(groups, scratch / "times").items():
        found |= outcome.result or {}
        if outcome.error is not None:
            again |= {name: {name: path} for name, path in groups[key].items()}
    for name, outcome in time_all(again, scratch / "times-again").items():
        found |= outcome.result or {}
        if outcome.error is not None:
            _log.warning("%s could not be timed: %s", name, outcome.error)
    return found


def _refuse(
    config: ExportConfig, subject: Subject, rows: Rows, errors: Mapping[str, YoloError], written: Path
) -> None:
    """Raise what the verdicts ask for."""
    bad = ("FAIL", "INSUFFICIENT") if config.strict else ("FAIL",)
    refused = {name: row["reasons"] for name, row in rows.items() if row["verdict"] in bad}
    for name, row in rows.items():
        if row["verdict"] == "INSUFFICIENT":
            _log.warning("%s: not enough evidence: %s", name, "; ".join(row["reasons"]))
    if not refused:
        return
    reasons = "; ".join(f"{name}: {', '.join(why)}" for name, why in refused.items())
    # What the user can mend by asking for something else is no verdict on the model.
    mistaken = all(isinstance(errors.get(name), UsageError) for name in refused)
    kind = UsageError if mistaken else GateError
    raise kind(f"exports of {subject.variant} are refused: {reasons}\nsee {written}")
