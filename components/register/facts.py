"""What the earlier stages' reports say about a trained variant, gathered for its registry entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.evidence import FORMAT
from components.job import Job
from components.provenance import provenance
from components.register.order import best_first, precision_of, verdict_of
from components.store import redacted
from yolo_core.digest import record_of
from yolo_core.errors import DataError
from yolo_core.metrics.bootstrap import ApIntervals, BootstrapSettings, Interval, ap_intervals
from yolo_core.metrics.coco_matching import CocoMatches, load_matches

METRICS = ("map50", "map", "precision", "recall", "coco_ap", "coco_ap50")
_TIMES = ("preprocess", "inference", "nms", "total", "total_p95")
_DRAWS = BootstrapSettings()
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A variant's evidence.

    ``metrics`` are fractions in 0..1, measured by the study on ``split`` of the dataset ``dataset_digest`` at
    ``image_size`` pixels. ``model_digest`` is the SHA-256 of the checkpoint file; ``validated`` says whether
    the dataset passed validation. ``document`` is evidence.json as `components.evidence` describes it, but
    for the runs; ``matches`` the study's file of matches, which becomes matches.npz.
    """

    variant: str
    model_digest: str
    dataset_digest: str
    split: str
    image_size: int
    metrics: dict[str, float]
    validated: bool
    document: dict[str, Any]
    matches: Path


@dataclass(frozen=True, kw_only=True)
class Reports:
    """The reports on a variant as they were written, and its matches."""

    dataset: dict[str, Any]
    validation: dict[str, Any]
    statistics: dict[str, Any]
    train: dict[str, Any]
    recipe: dict[str, Any]
    study: dict[str, Any]
    export: dict[str, Any]
    matches: CocoMatches
    matched: dict[str, Any]


def gather(job: Job, checkpoint: Path) -> Facts:
    """Read the reports on a variant.

    Raises:
        DataError: a report is broken, or the study saw another dataset or checkpoint than the training made.
    """
    reports = _read_all(job)
    try:
        study = reports.study
        digest = str(study["dataset_digest"])
        best_size = int(study["best"]["image_size"])
        point = next(point for point in study["points"] if int(point["image_size"]) == best_size)
        metrics = {key: float(point[key]) for key in METRICS if point.get(key) is not None}
        facts = Facts(
            variant=str(job.variant),
            model_digest=f"sha256:{record_of(checkpoint).sha256}",
            dataset_digest=digest,
            split=str(study["split"]),
            image_size=best_size,
            metrics=metrics,
            validated=bool(reports.validation["success"]),
            document=_document(job, reports, point, metrics),
            matches=job.path("reports/study/{variant}.npz"),
        )
        trained_on, studied = str(reports.train["dataset_digest"]), str(study["model_digest"])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise DataError(f"reports on {job.variant} lack {error}; run study and train again") from error
    if trained_on != digest:
        raise DataError(f"{job.variant} was trained on {trained_on} but studied on {digest}; run both again")
    if facts.model_digest not in (studied,) or reports.matched.get("model_digest") != studied:
        raise DataError(f"the study of {job.variant} measured another checkpoint; run the study stage again")
    return facts


def _read_all(job: Job) -> Reports:
    matches, matched = load_matches(job.path("reports/study/{variant}.npz"))
    return Reports(
        dataset=_read(job.path("data/dataset/dataset.json")),
        validation=_read(job.path("reports/validation.json")),
        statistics=_read(job.path("reports/validation/statistics.json")),
        train=_read(job.path("reports/train/{variant}.json")),
        recipe=_read(job.path("models/{variant}/train.json")),
        study=_read(job.path("reports/study/{variant}.json")),
        export=_read(job.path("reports/export/{variant}.json")),
        matches=matches,
        matched=matched,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the stage that writes it again") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{path} is not a report; run the stage that writes it again")
    return loaded


def _document(
    job: Job, reports: Reports, point: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return evidence.json; the runs and the orchestrator are added when they are looked up."""
    study = reports.study
    params = {key: value for key, value in job.params.items() if key != "tracking"}
    text = json.dumps(params, sort_keys=True, default=str)
    export = dict(reports.export)
    pytorch = export.pop("pytorch", {})
    return {
        "format": FORMAT,
        "variant": str(job.variant),
        "model_digest": study["model_digest"],
        "dataset_digest": study["dataset_digest"],
        "model": {
            "parameters": study.get("parameters"),
            "gflops_640": study.get("gflops_640"),
            "classes": reports.dataset.get("names"),
            "licence": (job.params.get("export") or {}).get("licence"),
        },
        "data": _data(reports),
        "training": _training(reports),
        "evaluation": _evaluation(reports, point, metrics),
        "export": {
            "pytorch_latency_ms": pytorch.get("latency_ms"),
            "order": best_first(reports.export),
            "formats": {
                name: {"verdict": verdict_of(row), "precision": precision_of(name), **row}
                for name, row in export.items()
                if isinstance(row, dict)
            },
        },
        "lineage": {
            "pipeline_run_id": job.run_id,
            "params_digest": f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
            **provenance(),
        },
        "params": json.loads(text),
    }


def _data(reports: Reports) -> dict[str, Any]:
    dataset, validation = reports.dataset, reports.validation
    source = dataset.get("source")
    failed = [rule for rule in validation.get("rules", []) if not rule.get("success", True)]
    return {
        "name": dataset.get("name"),
        "digest": dataset.get("digest"),
        "source": None if source is None else redacted(str(source)),
        "revision": _revision(str(source)),
        "splits": dataset.get("splits", {}),
        "instances": {
            split: counts.get("classes", {}) for split, counts in reports.statistics.get("splits", {}).items()
        },
        "validation": {
            "passed": bool(validation["success"]),
            "failed_rules": [
                {key: rule.get(key) for key in ("rule", "severity", "failed")} for rule in failed
            ],
            "quarantined_images": validation.get("quarantined_images"),
        },
    }


def _revision(source: str) -> str | None:
    """Return the revision that an address of a DVC repository names: dvc://REPO@REV/PATH."""
    if not source.startswith("dvc://") or "@" not in source:
        return None
    return source.rpartition("@")[2].partition("/")[0] or None


def _training(reports: Reports) -> dict[str, Any]:
    recipe = reports.recipe
    return {
        **reports.train,
        "reasons": recipe.get("reasons", []),
        "pretrained": recipe.get("pretrained"),
        "recipe": recipe.get("settings", {}),
        "versions": recipe.get("versions", {}),
    }


def _evaluation(reports: Reports, point: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    study, names = reports.study, list(reports.matched["names"])
    found = ap_intervals(reports.matches, _DRAWS)
    return {
        "split": study["split"],
        "image_size": int(point["image_size"]),
        "settings": study.get("settings", {}),
        "environment": study.get("environment", {}),
        "metrics": dict(metrics),
        "intervals": {
            "level": _DRAWS.level,
            "resamples": _DRAWS.resamples,
            "images": len(reports.matches.truth_counts),
            "coco_ap": _interval(found.ap),
            "coco_ap50": _interval(found.ap50),
        },
        "per_class": _per_class(reports, names, found),
        "per_size": study.get("per_size", []),
        "latency_ms": {key: point.get(f"{key}_ms") for key in _TIMES},
    }


def _per_class(reports: Reports, names: list[str], found: ApIntervals) -> list[dict[str, Any]]:
    """Return a row per class, in the study's order; a class without truths has no interval."""
    trained = reports.statistics.get("splits", {}).get("train", {}).get("classes", {})
    images = (reports.matches.truth_counts > 0).sum(0)
    rows = []
    for row in reports.study.get("per_class", []):
        place = names.index(row["name"])
        chosen = {key: row.get(key) for key in ("name", "instances", "precision", "recall", "ap", "ap50")}
        seen = {"train_instances": trained.get(row["name"], 0), "images": int(images[place])}
        rows.append({**chosen, **seen, "coco_ap": _interval(found.class_ap[place])})
    return rows


def _interval(found: Interval | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {key: round(value, _DIGITS) for key, value in asdict(found).items() if key != "mean"}
