"""``python -m components train --dry-run``: what would be trained, how, and what goes where."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from components.runner import StageRequest
from components.store import redacted, resolve_uri
from components.train.checkpoints import open_files
from components.train.config import RESUME_NEVER, TrainConfig
from components.train.decide import Decided, decide
from components.train.pretrained import Registry
from components.train.resume import glance
from components.workspace import Workspace
from yolo_core.data.coco import Sample
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.engine.precision import choose_precision
from yolo_core.engine.schedule import Schedule
from yolo_core.engine.settings import augmentation_of
from yolo_core.engine.train import build_model
from yolo_core.model.profile import count_parameters, gflops


def dry_run(request: StageRequest, workspace: Workspace) -> dict[str, Any]:
    """Decide on a training as the train stage would, and return the decision as JSON values.

    No Ray is started, no run is made and nothing is kept; an automatic batch size is measured, though.

    Raises:
        UsageError, DataError, UnreachableError: as `components.train.work.run`, from the same decisions.
    """
    request.check_inputs(workspace)
    with tempfile.TemporaryDirectory(prefix="dry-run-") as scratch:
        registry = Registry(tracking=request.tracking, root=workspace.root, folder=Path(scratch))
        decided = decide(request.config, str(request.variant), workspace, registry)
        samples = decided.dataset.samples("train")
        return {
            "variant": request.variant,
            "model": _model(decided),
            "data": _data(decided, len(samples)),
            "length": _length(decided, samples),
            "compute": _compute(decided),
            "recipe": decided.plan.settings.hyperparameters.as_dict(),
            "reasons": [*decided.numbers.reasons, *decided.plan.reasons],
            "start": _start(decided),
            "places": _places(decided, request, workspace),
            "fingerprint": decided.plan.fingerprint,
        }


def describe(plan: Mapping[str, Any]) -> Iterator[str]:
    """Yield a plan of `dry_run` as lines for people."""
    model, data, length, compute = (plan[key] for key in ("model", "data", "length", "compute"))
    yield (
        f"model: {plan['variant']}, {data['classes']} classes, {model['parameters']:,} parameters "
        f"({model['trained_parameters']:,} trained), {model['gflops']:.2f} GFLOPs at {data['image_size']} px"
    )
    yield (
        f"data: {data['dataset']}, {data['train_images']} training and {data['val_images']} validation images"
    )
    yield (
        f"batch: {length['batch_size']} images, {length['batch_per_worker']} per worker; "
        f"{length['accumulate']} make an optimiser step"
    )
    yield (
        f"length: {length['epochs']} epochs x {length['steps_per_epoch']} steps = {length['steps']} steps, "
        f"the first {length['warmup_steps']} warm up"
    )
    yield (
        f"workers: {compute['workers']} on {compute['ray']}, each with {compute['cpus_per_worker']} CPU, "
        f"{compute['gpus_per_worker']} GPU, {compute['loader_threads']} loader threads; "
        f"precision {compute['precision']}"
    )
    recipe = plan["recipe"]
    clipped = f", gradients clipped at {recipe['clip_norm']:g}" if recipe["clip_norm"] else ""
    yield (
        f"optimiser: {recipe['optimizer']}, lr {recipe['lr0']:g} to {recipe['lr0'] * recipe['lrf']:.3g} "
        f"({recipe['schedule']}), momentum {recipe['momentum']:g}, decay {recipe['weight_decay']:g}{clipped}"
    )
    for reason in plan["reasons"]:
        yield f"because: {reason}"
    yield f"start: {plan['start']['says']}"
    for what, place in plan["places"].items():
        yield f"{what}: {place}"


def _model(decided: Decided) -> dict[str, Any]:
    from yolo_core.engine.optimizer import freeze_layers

    settings = decided.plan.settings
    model = build_model(settings, decided.dataset)
    operations = gflops(model, settings.image_size)
    freeze_layers(model, settings.freeze)
    return {
        "parameters": count_parameters(model),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gflops": round(operations, 4),
    }


def _data(decided: Decided, images: int) -> dict[str, Any]:
    dataset = decided.dataset
    return {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "classes": len(dataset.names),
        "image_size": decided.plan.settings.image_size,
        "train_images": images,
        "val_images": len(dataset.samples("val")),
    }


def _length(decided: Decided, samples: list[Sample]) -> dict[str, Any]:
    settings, workers = decided.plan.settings, decided.numbers.config.workers
    loader = TrainLoader(
        samples,
        TrainLoaderSettings(
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            augmentation=augmentation_of(settings.hyperparameters),
            seed=settings.seed,
        ),
    )
    schedule = Schedule(
        hyperparameters=settings.hyperparameters,
        iterations_per_epoch=len(loader),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
    )
    return {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "batch_per_worker": -(-settings.batch_size // workers),
        "accumulate": schedule.accumulate,
        "steps_per_epoch": len(loader),
        "steps": len(loader) * settings.epochs,
        "warmup_steps": schedule.warmup,
    }


def _compute(decided: Decided) -> dict[str, Any]:
    config: TrainConfig = decided.numbers.config
    if config.ray_address is None:
        device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        precision = choose_precision(config.precision, device).name
        ray = "a Ray of its own on this machine"
    else:  # what those machines can do is seen there
        precision, ray = config.precision, f"the Ray at {config.ray_address}"
    return {
        "ray": ray,
        "workers": config.workers,
        "min_workers": config.min_workers,
        "cpus_per_worker": config.cpus_per_worker,
        "gpus_per_worker": config.gpus_per_worker,
        "loader_threads": config.loader_threads,
        "precision": precision,
    }


def _start(decided: Decided) -> dict[str, Any]:
    """Say what the weights and the position come from."""
    plan = decided.plan
    place = f"{decided.storage}/{plan.run_name}"
    own = None if decided.numbers.config.resume == RESUME_NEVER else glance(open_files(place))
    if own is not None:
        return {"resumes": place, **_position(own[1]), "says": f"goes on from {_words(own[1])} in {place}"}
    if decided.source is not None:
        source = decided.source
        said = f"goes on from {_words(source.values)} in {source.place}"
        return {"resumes": source.place, **_position(source.values), "says": said}
    if plan.weights is not None:
        return {"pretrained": plan.weights.lineage, "says": f"from the weights of {plan.weights.source}"}
    return {"says": "from scratch"}


def _position(values: Mapping[str, Any]) -> dict[str, int]:
    return {"epochs_done": len(values["history"]), "iterations_done": int(values["iteration"])}


def _words(values: Mapping[str, Any]) -> str:
    return f"epoch {len(values['history']) + 1}, iteration {values['iteration']},"


def _places(decided: Decided, request: StageRequest, workspace: Workspace) -> dict[str, str]:
    return {
        "states": f"{decided.storage}/{decided.plan.run_name}",
        **{path: f"{workspace.uri}/{path}" for path in request.outputs},
        "mlflow": redacted(resolve_uri(request.tracking, workspace.root)),
        "experiment": request.tracking.experiment,
        "pipeline run": request.run_id,
    }
