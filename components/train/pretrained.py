"""The weights a training starts from: a file, a registered model, or the folder of a finished training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from components.registry import REGISTRY
from components.store import TrackingConfig, connect, download
from yolo_core.digest import record_of
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.model.weights import load_checkpoint

FETCHED = "runs/pretrained"
"""Folder of the workspace for checkpoints out of the registry, each under its digest."""
_LAST, _ABOUT = "last.safetensors", "train.json"


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """A checkpoint to start from.

    Attributes:
        path: of the .pt or .safetensors file.
        source: as the params name it.
        sha256: of the file, in hexadecimal.
        registered: name and version of the registered model that it came from, if it did.
    """

    path: Path
    source: str
    sha256: str
    registered: Mapping[str, str] = field(default_factory=dict)

    @property
    def lineage(self) -> dict[str, str]:
        """What the training's record says of it."""
        return {"source": self.source, "sha256": self.sha256, **self.registered}


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where registered models are: the MLflow, the workspace it may lie in, and a folder for what is fetched.

    The folder must be one that every worker sees.
    """

    tracking: TrackingConfig
    root: Path
    folder: Path


def find_weights(given: str | None, root: Path, registry: Registry | None) -> StartWeights | None:
    """Find what ``train.pretrained`` names; relative paths start from ``root``, the workspace.

    Raises:
        UsageError: there is no such file, model, version or alias, or no registry to ask.
        CheckpointError: the registered model is none of this project's.
        UnreachableError: MLflow does not answer.
    """
    if given is None:
        return None
    if given.startswith(REGISTRY):
        if registry is None:
            raise UsageError(f"train.pretrained: {given} is in an MLflow registry, which is not asked here")
        return _registered(given, registry)
    path = root / Path(given).expanduser()
    if not path.is_file():
        raise UsageError(
            f"train.pretrained: no file {path}; give the path of a .pt or .safetensors file, or a registered "
            "model as models:/NAME@ALIAS"
        )
    return StartWeights(path=path.resolve(), source=given, sha256=record_of(path).sha256)


def finished_weights(folder: Path, variant: str, names: Sequence[str]) -> StartWeights | None:
    """Return the last weights of a finished training's folder, or None if it is no such folder.

    Raises:
        UsageError: they are of another variant, or for other classes: those are for ``train.pretrained``.
        CheckpointError: they cannot be read.
    """
    path = folder / _LAST
    if not path.is_file() or not (folder / _ABOUT).is_file():
        return None
    model = load_checkpoint(path)
    if model.variant != variant or tuple(model.names) != tuple(names):
        raise UsageError(
            f"train.resume: {folder} holds {model.variant} for the classes {', '.join(model.names[:5])}, not "
            f"{variant} for {', '.join(names[:5])}; set train.pretrained to {path} to start from its features"
        )
    return StartWeights(path=path.resolve(), source=str(folder), sha256=record_of(path).sha256)


def _registered(uri: str, registry: Registry) -> StartWeights:
    """Download a registered model's checkpoint, under a name that is its digest."""
    connect(registry.tracking, registry.root, create=False)
    with tempfile.TemporaryDirectory(prefix="pretrained-") as scratch:
        folder = download(uri, Path(scratch))
        try:
            about = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
            found = folder / about["flavors"]["python_function"]["artifacts"]["checkpoint"]["path"]
            record = record_of(found)
        except (OSError, KeyError, TypeError, yaml.YAMLError):
            raise CheckpointError(
                f"train.pretrained: {uri} is no detector that `python -m components register` made; "
                "name one of those, or a file"
            ) from None
        noted = folder / "registered_model_meta"
        meta = yaml.safe_load(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
        registry.folder.mkdir(parents=True, exist_ok=True)
        path = registry.folder / f"{record.sha256[:16]}{found.suffix}"
        if not path.is_file() or record_of(path) != record:
            shutil.copyfile(found, path)
    names = {"model": meta.get("model_name"), "version": meta.get("model_version")}
    registered = {key: str(value) for key, value in names.items() if value is not None}
    return StartWeights(path=path.resolve(), source=uri, sha256=record.sha256, registered=registered)
