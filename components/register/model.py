"""The pyfunc that is registered: what it consists of, and what it needs to run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np

import yolo_core
from components.job import Job
from components.register.config import RegisterConfig
from components.register.facts import Facts
from yolo_core.data.inputs import InputRules
from yolo_core.detector import BEST, CHECKPOINT, DEFAULT_PARAMS, LARGEST_SIZE
from yolo_core.errors import UsageError

_ENTRY = Path(__file__).with_name("pyfunc.py")
_REQUIRED = ("mlflow", "torch", "torchvision", "numpy", "opencv-python-headless", "safetensors", "pillow")
# How a format's name begins -> what runs it beside torch.
_RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "saved_model": "tensorflow-cpu",
    "keras": "tensorflow-cpu",
    "tflite": "tensorflow-cpu",
    "coreml": "coremltools",
}
_LIGHT = ("onnxruntime", "openvino")  # worth their place where another backend would do, too


def log_model(config: RegisterConfig, job: Job, facts: Facts, evidence: Path) -> str:
    """Log the pyfunc with the checkpoint, all exports and the evidence into this stage's run.

    Returns:
        Its address.

    Raises:
        UsageError: the format that it shall run was not exported.
    """
    made = facts.document["export"]
    order = made["order"]
    if config.format not in (BEST, CHECKPOINT, *made["formats"]):
        raise UsageError(
            f"register.format is {config.format}, but what was exported is "
            f"{', '.join(made['formats']) or 'nothing'}; add it to export.formats"
        )
    settings: dict[str, Any] = {
        "format": config.format,
        "order": order,
        "image_size": facts.image_size,
        "allow_paths": False,
        "max_pixels": InputRules().max_pixels,
        "max_size": max(LARGEST_SIZE, facts.image_size),
    }
    with mlflow.start_run(run_id=job.tracker.run_id):
        info = mlflow.pyfunc.log_model(
            name=facts.variant,
            python_model=str(_ENTRY),
            code_paths=[str(Path(yolo_core.__file__).parent)],
            artifacts={
                "checkpoint": str(job.path("models/{variant}/best.safetensors")),
                "exports": str(job.path("exports/{variant}")),
                "evidence": str(evidence),
            },
            model_config=settings,
            input_example=([example_image()], DEFAULT_PARAMS),
            pip_requirements=requirements(order if config.format == BEST else [config.format]),
            metadata={"model_digest": facts.model_digest, "dataset_digest": facts.dataset_digest},
        )
        mlflow.log_metrics(facts.metrics, model_id=info.model_id)
    return str(info.model_uri)


def requirements(backends: Sequence[str]) -> list[str]:
    """Return the pinned packages that the registered model needs, without local build labels.

    One backend must run; of several the light ones shall, and a heavy one is used where it is there.
    """
    runtimes = {
        runtime
        for name in backends
        for start, runtime in _RUNTIMES.items()
        if name.startswith(start) and (len(backends) == 1 or runtime in _LIGHT)
    }
    names = (*_REQUIRED, *sorted(runtimes))
    return [f"{name}=={_installed(name).split('+')[0]}" for name in names]


def example_image() -> str:
    """Return a small PNG in base64: a grey gradient."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    encoded = cv2.imencode(".png", np.repeat(np.tile(ramp, (64, 1))[..., None], 3, axis=2))[1]
    return base64.b64encode(encoded.tobytes()).decode("ascii")


def _installed(name: str) -> str:
    """Return a package's version; images hold MLflow as mlflow-skinny, of the same version."""
    return str(mlflow.__version__) if name == "mlflow" else installed_version(name)
