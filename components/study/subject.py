"""One way to everything that can be evaluated: checkpoints, registered models, artifacts of runs, exports.

A name is

- a path: a ``.pt`` or ``.safetensors`` checkpoint, an export (a file, or a folder of one format), or a folder
  that MLflow downloaded a registered model to
- ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``: what the registered model runs, or its checkpoint where
  that differs from machine to machine; another of its formats where one is named
- ``runs:/RUN_ID/PATH``: an artifact of a run that is one of the above

Checkpoints take any size and the smallest shape that holds a batch. Exports have one fixed shape: images are
letterboxed to that square, which the official release does for them too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from components.registry import REGISTRY
from components.store import TrackingConfig, connect, download
from yolo_core.data.coco import DetectionDataset
from yolo_core.detector import BEST, CHECKPOINT
from yolo_core.engine.inference import EvalSettings, Predictor, stride_of, usable_size
from yolo_core.errors import CheckpointError, DataError, UsageError
from yolo_core.export.backends import FORMATS, get_format, load_exported
from yolo_core.export.files import digest_of
from yolo_core.model.graph import create_model
from yolo_core.model.profile import count_parameters, gflops
from yolo_core.model.variants import VARIANTS, get_variant
from yolo_core.model.weights import load_checkpoint

RUNS = "runs:/"
_CHECKPOINT_SUFFIXES = (".pt", ".safetensors")
_SHOWN = 5  # names of classes in a message


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, ready to be evaluated.

    Attributes:
        source: as it was named.
        model: fused and on its device, or an export; what `yolo_core.engine.evaluate.evaluate` takes.
        format: "checkpoint", or the export's.
        variant: such as yolov5n.
        names: of the classes, by index.
        stride: the largest, in pixels.
        fixed_size: side of the only square that an export takes; None: any multiple of the stride.
        trained_size: side it was trained at, in pixels; of an export its own.
        device: where it runs: cpu or cuda.
        digest: sha256 of the file, "sha256:<hex>"; of a folder, over its files.
        weights_digest: of the checkpoint that an export was made from; "not stated" if it does not say.
        precision: of the stored weights: fp32, or what an export's metadata says.
        parameters, gflops_640: before fusing, as in the release's table; None where the variant is unknown.
        registered: name and version, where it came from the registry; else empty.
    """

    source: str
    model: Predictor
    format: str
    variant: str
    names: tuple[str, ...]
    stride: int
    fixed_size: int | None
    trained_size: int
    device: str
    digest: str
    weights_digest: str
    precision: str
    parameters: int | None
    gflops_640: float | None
    registered: Mapping[str, str]

    @property
    def title(self) -> str:
        """For people: variant and, unless it is a checkpoint, format."""
        return self.variant if self.format == CHECKPOINT else f"{self.variant} ({self.format})"

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of the weights."""
        return {
            "model_digest": self.digest,
            "parameters": self.parameters,
            "gflops_640": self.gflops_640,
        }

    @property
    def about(self) -> dict[str, Any]:
        """All that a report says of where the model came from and what it takes."""
        return {
            "source": self.source,
            "format": self.format,
            "variant": self.variant,
            "precision": self.precision,
            "stride": self.stride,
            "fixed_size": self.fixed_size,
            "weights_digest": self.weights_digest,
            **self.facts,
            **self.registered,
        }

    def usable(self, size: int | None) -> int:
        """Return the image size that is used for a size in pixels; None: the size it was trained at.

        Raises:
            UsageError: an export takes another size only.
        """
        if self.fixed_size is None:
            return usable_size(self.model, self.trained_size if size is None else size)
        if size not in (None, self.fixed_size):
            raise UsageError(
                f"{self.source} takes images of {self.fixed_size} px only, not {size}; "
                f"leave the size out, or export it with export.image_size={size}"
            )
        return self.fixed_size

    def settings(self, size: int | None, base: EvalSettings) -> EvalSettings:
        """Return settings that suit this model: its device, a usable size, squares where it takes no other.

        Raises:
            UsageError: an export cannot do what the settings ask for.
        """
        used = self.usable(size)
        if self.format != CHECKPOINT:
            if base.augment:
                raise UsageError(f"{self.source} takes one shape only; test-time augmentation needs others")
            if base.precision != "fp32":
                raise UsageError(
                    f"{self.source} runs in the precision that it was exported in; leave {base.precision} out"
                )
        rectangular = base.rectangular and self.fixed_size is None
        return replace(base, image_size=used, rectangular=rectangular, device=self.device)

    def check_classes(self, dataset: DetectionDataset) -> None:
        """Raise `UsageError`, saying which classes differ, unless the model knows the dataset's classes."""
        difference = class_difference(self.names, dataset.names)
        if difference:
            raise UsageError(
                f"{self.source} knows other classes than {dataset.root}: {difference}; "
                "train on this dataset first, or evaluate on the one that it was trained on"
            )


def open_subject(
    name: str,
    *,
    device: str = "auto",
    fmt: str | None = None,
    tracking: TrackingConfig | None = None,
    root: Path = Path(),
) -> Subject:
    """Open what a name says; see the module.

    Args:
        name: a path, ``models:/...`` or ``runs:/...``.
        device: cpu, cuda, or auto: cuda for a checkpoint where there is a GPU. Exports run on the CPU.
        fmt: which format of a registered model, or of a folder that holds several; "checkpoint" is one.
        tracking: which MLflow; None: $MLFLOW_TRACKING_URI, else mlflow.db in ``root``.
        root: the workspace.

    Raises:
        UsageError: there is no such thing, it is ambiguous, or the device is missing.
        CheckpointError: it cannot be read, or is no detector of this project.
        UnreachableError: MLflow does not answer.
    """
    if not name.startswith((REGISTRY, RUNS)):
        return _open_path(Path(name), name, fmt, device)
    connect(tracking or TrackingConfig(uri=None, experiment="-"), root.resolve(), create=False)
    # Whatever is opened is read into memory, or held open, so the folder may go.
    with tempfile.TemporaryDirectory(prefix="subject-") as scratch:
        return _open_path(download(name, Path(scratch)), name, fmt, device)


def choose_device(name: str) -> str:
    """Resolve ``auto``; raise `UsageError` for a GPU that is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("device is cuda, but torch sees no GPU; set it to auto or cpu")
    return "cuda" if available and name == "auto" else name.replace("auto", "cpu")


def check_split(dataset: DetectionDataset, split: str) -> None:
    """Raise `DataError` if a split is absent or has nothing to measure against: crowds do not count."""
    if all(sample.crowd.all() for sample in dataset.samples(split)):
        raise DataError(f"split {split!r} of {dataset.name} has no boxes to measure against; choose another")


def class_difference(known: Sequence[str], wanted: Sequence[str]) -> str:
    """Say in words how a model's classes differ from a dataset's; empty if they are the same in one order."""
    if tuple(known) == tuple(wanted):
        return ""
    lacks = [name for name in wanted if name not in known]
    extra = [name for name in known if name not in wanted]
    if not lacks and not extra and len(known) == len(wanted):
        index = next(i for i, pair in enumerate(zip(known, wanted, strict=True)) if pair[0] != pair[1])
        return (
            f"the same ones in another order, first at index {index}: {known[index]!r} of the model, "
            f"{wanted[index]!r} of the dataset"
        )
    parts = [f"{len(known)} instead of {len(wanted)}"] if len(known) != len(wanted) else []
    parts += [f"it lacks {_listed(lacks)}"] if lacks else []
    parts += [f"the dataset lacks {_listed(extra)}"] if extra else []
    return ", ".join(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _open_path(path: Path, source: str, fmt: str | None, device: str) -> Subject:
    registered: dict[str, str] = {}
    if (path / "MLmodel").is_file():
        path, fmt, registered = _registered(path, source, fmt)
    path = _locate(path, source, fmt)
    if path.suffix in _CHECKPOINT_SUFFIXES:
        if fmt not in (None, CHECKPOINT):
            raise UsageError(f"{source} is a checkpoint, not {fmt}; leave the format out")
        return _checkpoint(path, source, device, registered)
    return _export(path, source, device, registered)


def _registered(folder: Path, source: str, fmt: str | None) -> tuple[Path, str, dict[str, str]]:
    """Find in a downloaded pyfunc the file or folder, its format, and name and version if they are noted."""
    try:
        about = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        flavor = about["flavors"]["python_function"]
        artifacts = {key: folder / item["path"] for key, item in flavor["artifacts"].items()}
        chosen = fmt or str(flavor["config"]["format"])
        chosen = CHECKPOINT if chosen == BEST else chosen  # the weights, as their study measured them
        path = artifacts["checkpoint"] if chosen == CHECKPOINT else artifacts["exports"]
        noted = folder / "registered_model_meta"
        meta = yaml.safe_load(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
        names = {"registered_model": meta.get("model_name"), "model_version": meta.get("model_version")}
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        raise CheckpointError(
            f"{source} is no detector that `python -m components register` made; name one of those"
        ) from None
    return path, chosen, {key: str(value) for key, value in names.items() if value is not None}


def _locate(path: Path, source: str, fmt: str | None) -> Path:
    """Return the checkpoint or the export that is meant."""
    if not path.exists():
        raise UsageError(
            f"no model at {source}; name a checkpoint (.pt, .safetensors), an export, or a registered model "
            "as models:/NAME@ALIAS"
        )
    if path.is_file():
        suffixes = (*_CHECKPOINT_SUFFIXES, *(known.suffix for known in FORMATS.values()))
        if path.suffix not in suffixes:
            raise UsageError(f"{source} is no model: none of {', '.join(suffixes)}")
        return path
    held = [name for name, known in FORMATS.items() if (path / known.filename).exists()]
    if fmt in (None, CHECKPOINT):
        if len(held) > 1:
            raise UsageError(f"{source} holds several formats, {', '.join(held)}; name one of the files")
        return path / FORMATS[held[0]].filename if held else path
    target = path / get_format(str(fmt)).filename
    if not target.exists():
        raise UsageError(f"{source} has no {fmt}; it has {', '.join(held) or 'no export'}")
    return target


def _checkpoint(path: Path, source: str, device: str, registered: Mapping[str, str]) -> Subject:
    model = load_checkpoint(path)
    place = choose_device(device)
    digest, parameters, operations = digest_of(path), count_parameters(model), gflops(model)
    trained = int(model.metadata.get("image_size") or get_variant(model.variant).train_size)
    fast = model.fuse().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Subject(
        source=source,
        model=fast,
        format=CHECKPOINT,
        variant=model.variant,
        names=tuple(model.names),
        stride=stride_of(model),
        fixed_size=None,
        trained_size=trained,
        device=place,
        digest=digest,
        weights_digest=digest,
        precision="fp32",
        parameters=parameters,
        gflops_640=round(operations, 3),
        registered=registered,
    )


def _export(path: Path, source: str, device: str, registered: Mapping[str, str]) -> Subject:
    if device == "cuda":
        raise UsageError(f"{source} is an export, which runs on the CPU; set the device to auto or cpu")
    backend = load_exported(path)
    about = backend.metadata
    variant = str(about.get("variant", "unknown"))
    twin = create_model(variant, len(backend.names)) if variant in VARIANTS else None
    return Subject(
        source=source,
        model=backend,
        format=backend.format,
        variant=variant,
        names=backend.names,
        stride=backend.stride,
        fixed_size=backend.image_size,
        trained_size=backend.image_size,
        device="cpu",
        digest=digest_of(path),
        weights_digest=str(about.get("model_digest", "not stated")),
        precision=backend.precision,
        parameters=None if twin is None else count_parameters(twin),
        gflops_640=None if twin is None else round(gflops(twin), 3),
        registered=registered,
    )
