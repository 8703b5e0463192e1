"""The tags of a registered version: what people and gates search, compare and trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evidence import EXPORT_FIGURES, VALIDATION_FAILED, VALIDATION_PASSED
from components.provenance import provenance
from components.register.facts import Facts
from components.tracking.tags import TAG_DATASET, TAG_MODEL, TAG_ORCHESTRATOR, TAG_RUN

TAG_PARAMS = "params.digest"


def version_tags(facts: Facts, run_id: str) -> dict[str, str]:
    """Return the tags of a version, as `components.evidence` lists them; what is not known is left out."""
    document = facts.document
    lineage, data = document["lineage"], document["data"]
    training = data["splits"].get("train", {})
    known = {
        TAG_RUN: run_id,
        TAG_ORCHESTRATOR: lineage.get("orchestrator"),
        TAG_PARAMS: lineage.get("params_digest"),
        TAG_DATASET: facts.dataset_digest,
        TAG_MODEL: facts.model_digest,
        **provenance(),
        "variant": facts.variant,
        "validation": VALIDATION_PASSED if facts.validated else VALIDATION_FAILED,
        "evaluation.split": facts.split,
        "evaluation.image_size": facts.image_size,
        **{f"dataset.{key}": data.get(key) for key in ("name", "source", "revision")},
        **{f"data.train.{key}": training.get(key) for key in ("images", "boxes")},
        **{f"run.{stage}": found for stage, found in lineage.get("runs", {}).items()},
        **{f"metric.{key}": f"{value:.6f}" for key, value in facts.metrics.items()},
        **_export_tags(document["export"]),
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def _export_tags(export: Mapping[str, Any]) -> dict[str, Any]:
    """Return verdict, latency in milliseconds per image, and figures of each format."""
    tags: dict[str, Any] = {"latency.pytorch": export.get("pytorch_latency_ms")}
    for name, row in export["formats"].items():
        tags[f"latency.{name}"] = row.get("latency_ms")
        tags[f"export.{name}.verdict"] = row["verdict"]
        tags |= {f"export.{name}.{key}": row.get(key) for key in EXPORT_FIGURES}
    return tags
