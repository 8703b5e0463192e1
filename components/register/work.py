"""Register a trained variant in MLflow: a pyfunc logged from code, with its exports and its evidence."""

from __future__ import annotations

import base64
import json
import logging
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np

import yolo_core
from components.job import Job
from components.provenance import provenance
from components.register.config import RegisterConfig
from components.register.facts import Facts, gather
from components.store import mlflow_errors
from components.tracking import TAG_DATASET, TAG_RUN
from yolo_core.errors import DataError

CHALLENGER = "challenger"
TAG_MODEL = "model.digest"
_ENTRY = Path(__file__).with_name("pyfunc.py")
_REQUIRED = ("mlflow", "torch", "torchvision", "numpy", "opencv-python-headless", "safetensors", "pillow")
_RUNTIME = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}

_log = logging.getLogger(__name__)


def run(config: RegisterConfig, job: Job) -> dict[str, Any]:
    """Log, register and alias one variant; write ``registry/V.json``.

    A retry of the same pipeline run with the same checkpoint finds the version that it made before.

    Raises:
        DataError: the checkpoint or a report is missing or broken.
        UnreachableError: MLflow or its artifact store stopped answering.
    """
    checkpoint = job.path("models/{variant}/best.safetensors")
    if not checkpoint.is_file():
        raise DataError(f"no checkpoint at {checkpoint}; run the train stage of {job.variant} again")
    facts = gather(job, checkpoint)
    name = f"{config.name_prefix}{facts.variant}"
    tags = version_tags(facts, job.run_id)
    with mlflow_errors(job.tracker.uri):
        client = mlflow.MlflowClient()
        version = _find_version(client, name, tags)
        if version is None:
            model_uri = _log_model(config, job, facts, checkpoint)
            version = str(mlflow.register_model(model_uri, name, tags=tags).version)
        client.set_registered_model_alias(name, CHALLENGER, version)
    _log.info("registered %s version %s as %s", name, version, CHALLENGER)
    receipt = {
        "name": name,
        "version": version,
        "uri": f"models:/{name}/{version}",
        "alias": CHALLENGER,
        "run_id": job.run_id,
        "mlflow_run_id": job.tracker.run_id,
        "model_digest": facts.model_digest,
        "dataset_digest": facts.dataset_digest,
        "metrics": facts.metrics,
        "validated": facts.validated,
    }
    job.path("registry/{variant}.json").write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    return receipt


def version_tags(facts: Facts, run_id: str) -> dict[str, str]:
    """Return the tags of a registered version; `components.promote.gate` reads them."""
    return {
        TAG_RUN: run_id,
        TAG_DATASET: facts.dataset_digest,
        TAG_MODEL: facts.model_digest,
        **provenance(),
        "variant": facts.variant,
        "validation": "passed" if facts.validated else "failed",
        "evaluation.split": facts.split,
        "evaluation.image_size": str(facts.image_size),
        **{f"metric.{key}": f"{value:.6f}" for key, value in facts.metrics.items()},
    }


def _find_version(client: Any, name: str, tags: dict[str, str]) -> str | None:
    """Return the newest version with this run's id and this checkpoint's digest, if there is one."""
    found = [
        int(entry.version)
        for entry in client.search_model_versions(f"name = '{name}'")
        if all(entry.tags.get(key) == tags[key] for key in (TAG_RUN, TAG_MODEL)) and entry.status == "READY"
    ]
    return str(max(found)) if found else None


def _log_model(config: RegisterConfig, job: Job, facts: Facts, checkpoint: Path) -> str:
    """Log the pyfunc into this stage's run and return its address."""
    with mlflow.start_run(run_id=job.tracker.run_id):
        info = mlflow.pyfunc.log_model(
            name=facts.variant,
            python_model=str(_ENTRY),
            code_paths=[str(Path(yolo_core.__file__).parent)],
            artifacts={"checkpoint": str(checkpoint), "exports": str(job.path("exports/{variant}"))},
            model_config={"format": config.format, "image_size": facts.image_size},
            input_example=([_example_image()], {"conf": 0.25, "iou": 0.45, "max_det": 300}),
            pip_requirements=requirements(config.format),
            metadata={"model_digest": facts.model_digest, "dataset_digest": facts.dataset_digest},
        )
        mlflow.log_metrics(facts.metrics, model_id=info.model_id)
    return str(info.model_uri)


def requirements(fmt: str) -> list[str]:
    """Return the pinned packages that the registered model needs, without local build labels."""
    names = (*_REQUIRED, *_RUNTIME.get(fmt, ()))
    return [f"{name}=={installed_version(name).split('+')[0]}" for name in names]


def _example_image() -> str:
    """Return a small PNG in base64: a grey gradient."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    encoded = cv2.imencode(".png", np.repeat(np.tile(ramp, (64, 1))[..., None], 3, axis=2))[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")
