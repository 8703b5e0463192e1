"""What a registered version carries for those who judge it later: promotion, lineage, the model card.

The version's own files hold the folder ``evidence``, which `read_evidence` fetches (a later registration
from the same run does not touch it)::

    evidence.json     the facts, below; what nobody stated is null
    matches.npz       which detection found what at the best size (`yolo_core.metrics.coco_matching`): of two
                      versions on the same images the APs can be compared draw by draw
    model_card.md, model_card.html

evidence.json::

    format            1
    variant, model_digest, dataset_digest
    model             parameters, gflops_640, classes [names], licence
    data              name, digest, source, revision, splits {split: {images, boxes}},
                      instances {split: {class: boxes}},
                      validation {passed, failed_rules [{rule, severity, failed}], quarantined_images}
    training          what reports/train/V.json says, with reasons [texts], pretrained, recipe {key: value}
    evaluation        split, image_size, settings, environment,
                      metrics {map50, map, precision, recall, coco_ap, coco_ap50},
                      intervals {level, resamples, images, coco_ap {value, low, high}, coco_ap50 {...}},
                      per_class [{name, instances, train_instances, precision, recall, ap, ap50, images,
                                  coco_ap {value, low, high}}],
                      per_size [{size, instances, ap}], small, medium and large as COCO has them,
                      latency_ms {preprocess, inference, nms, total, total_p95}
    export            pytorch_latency_ms, order [backends, the best first], formats {format: its row in the
                      report of the export stage: verdict, reasons, precision, latency_ms, megabytes, ...}
    lineage           pipeline_run_id, orchestrator, params_digest, runs {stage: MLflow run id},
                      and the tags of `components.provenance`
    params            the params of that pipeline, without the section tracking

All figures of accuracy are fractions in 0..1, times are milliseconds per image.

The version's tags repeat what is searched and compared: ``variant``, ``pipeline.run_id``,
``dataset.digest``, ``dataset.name``, ``dataset.source``, ``dataset.revision``, ``model.digest``,
``validation`` (passed or failed), ``evaluation.split``, ``evaluation.image_size``, ``metric.NAME``,
``params.digest``, ``run.STAGE`` (MLflow run ids), ``data.train.images``, ``data.train.boxes``,
``latency.pytorch``, ``latency.FORMAT``, ``export.FORMAT.verdict`` and ``export.FORMAT.NAME`` of the figures
in `EXPORT_FIGURES`, and the tags of `components.provenance`. A tag for what nobody stated is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.store import download
from yolo_core.errors import DataError
from yolo_core.metrics.coco_matching import CocoMatches, load_matches

FORMAT = 1
FOLDER = "evidence"
FACTS, MATCHES = "evidence.json", "matches.npz"
CARD, CARD_PAGE = "model_card.md", "model_card.html"
EXPORT_FIGURES = ("ap", "ap_difference", "matched", "megabytes")
VALIDATION_PASSED, VALIDATION_FAILED = "passed", "failed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """The evidence of one version: ``facts`` is evidence.json, ``names`` the classes of the matches."""

    facts: dict[str, Any]
    matches: CocoMatches
    names: tuple[str, ...]


def read_evidence(name: str, version: str, folder: Path) -> Evidence:
    """Fetch a version's evidence from the store that `components.store.connect` chose.

    Args:
        name: of the registered model.
        version: its number.
        folder: an empty one, to download to.

    Raises:
        UsageError: there is no such version, or it was registered without evidence.
        DataError: its files are broken.
        UnreachableError: MLflow or its artifacts do not answer.
    """
    return open_evidence(download(f"models:/{name}/{version}/artifacts/{FOLDER}", folder))


def open_evidence(folder: Path) -> Evidence:
    """Read a folder of evidence.

    Raises:
        DataError: a file is missing or broken.
    """
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = facts["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}); register the model again") from None
    if not known:
        raise DataError(f"{path} has format {facts['format']}, not {FORMAT}; register the model again")
    matches, about = load_matches(folder / MATCHES)
    return Evidence(facts=facts, matches=matches, names=tuple(about["names"]))
