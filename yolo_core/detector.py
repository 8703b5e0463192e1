"""A trained model with its exports behind one call; which of them computes is chosen at each call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from yolo_core.data.images import Pixels
from yolo_core.engine.detections import describe
from yolo_core.engine.evaluate import EvalSettings, Rows, detect
from yolo_core.engine.fast import FastDetector
from yolo_core.engine.inference import usable_size
from yolo_core.errors import UsageError
from yolo_core.export.backends import load_exported
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.variants import get_variant
from yolo_core.model.weights import load_checkpoint

BEST, CHECKPOINT = "best", "checkpoint"
LARGEST_SIZE = 2048  # pixels that a request may ask the model to look at, unless it was made for more
# What a request over MLflow can set.
DEFAULT_PARAMS: dict[str, Any] = {"conf": 0.25, "iou": 0.45, "max_det": 300, "size": 0, "backend": BEST}
_SMALLEST_SIZE = 32
_MOST_DETECTIONS = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """How to look at pictures.

    Attributes:
        backend: best, checkpoint, or the name of an exported format.
        image_size: longest side of what the model sees, in pixels, rounded up to a multiple of its stride; 0
            takes the size that the backend was made for.
        nms: what to keep.
        augment: look three times, see `yolo_core.engine.tta`; checkpoints only.
    """

    backend: str = BEST
    image_size: int = 0
    nms: NmsSettings = field(default_factory=NmsSettings)
    augment: bool = False


def request_of(params: Mapping[str, Any], largest: int = LARGEST_SIZE) -> Request:
    """Check the params of a request, of which any may be left out.

    Args:
        params: ``conf``, the least score; ``iou``, the overlap above which the weaker of two boxes goes, both
            0..1; ``max_det``, the most boxes per picture; ``size``, longest side of what the model sees in
            pixels, 0 for its own; ``backend``, as in `Request`.
        largest: ``size`` that is allowed.

    Raises:
        UsageError: names the first that is wrong.
    """
    said = {**DEFAULT_PARAMS, **params}
    size, most = int(said["size"]), int(said["max_det"])
    for name in ("conf", "iou"):
        if not 0 <= float(said[name]) <= 1:  # not a number fails too
            raise UsageError(f"param {name} must lie in 0..1, not {said[name]}")
    if not 1 <= most <= _MOST_DETECTIONS:
        raise UsageError(f"param max_det must lie in 1..{_MOST_DETECTIONS}, not {most}")
    if size != 0 and not _SMALLEST_SIZE <= size <= largest:
        raise UsageError(f"param size must be 0, or {_SMALLEST_SIZE} to {largest} pixels, not {size}")
    nms = NmsSettings(confidence=float(said["conf"]), iou=float(said["iou"]), max_detections=most)
    return Request(backend=str(said["backend"]), image_size=size, nms=nms)


class Runner(Protocol):
    """One way to compute: a checkpoint or an export, loaded."""

    names: tuple[str, ...]

    def refusal(self, request: Request) -> str | None:
        """Say why it cannot do what is asked; None if it can."""

    def __call__(self, image: Pixels, request: Request) -> Rows:
        """Find objects in an (H, W, 3) BGR picture: (n, 6) xyxy in its pixels, score, class; best first."""


class Detector:
    """Find objects with the best backend that this machine can run, or with one that is named.

    A backend is loaded when it is first used. Calls from several threads take turns: one computes with all
    cores.
    """

    def __init__(
        self, places: Mapping[str, Path], order: Sequence[str], image_size: int | None = None
    ) -> None:
        """Remember where the backends are.

        Args:
            places: name of a backend -> its file or folder; the name of a checkpoint is "checkpoint".
            order: those that "best" tries, the best first.
            image_size: of the checkpoint, longest side in pixels; None takes that of its training.
        """
        self._places = dict(places)
        self._order = tuple(order)
        self._size = image_size
        self._runners: dict[str, Runner] = {}
        self._failed: dict[str, str] = {}
        self._turn = threading.RLock()

    def __call__(
        self, images: Iterable[Pixels], request: Request | None = None
    ) -> list[list[dict[str, Any]]]:
        """Find objects in (H, W, 3) BGR uint8 pictures, one after the other.

        Returns:
            Per picture what `yolo_core.engine.detections.describe` makes of its detections, best first.

        Raises:
            UsageError: there is no such backend, it cannot run here, or cannot do what is asked.
            CheckpointError: its file is broken.
        """
        asked = request or Request()
        runner = self.runner(asked)
        found = []
        for image in images:  # a generator decodes each only now
            with self._turn:
                found.append(describe(runner(image, asked), runner.names))
        return found

    def runner(self, request: Request) -> Runner:
        """Return what a request would be computed with; raises as a call does."""
        with self._turn:
            if request.backend == BEST:
                return self._best(request)
            runner = self._open(request.backend)
            refusal = runner.refusal(request)
            if refusal is not None:
                raise UsageError(f"backend {request.backend} {refusal}")
            return runner

    def _best(self, request: Request) -> Runner:
        """Return the first backend of the order that runs here and can do it."""
        refusals = []
        for name in self._order:
            if name in self._failed:
                continue
            try:
                runner = self._open(name)
            except UsageError as error:
                self._failed[name] = str(error)
                _log.warning("backend %s is passed over: %s", name, error)
                continue
            refusal = runner.refusal(request)
            if refusal is None:
                return runner
            refusals.append(f"{name} {refusal}")
        reasons = [*(f"{name}: {why}" for name, why in self._failed.items()), *refusals]
        raise UsageError(f"no backend can do this: {'; '.join(reasons) or 'there is none'}")

    def _open(self, name: str) -> Runner:
        if name not in self._places:
            raise UsageError(f"unknown backend {name!r}; choose from {BEST}, {', '.join(self._places)}")
        if name not in self._runners:
            place = self._places[name]
            self._runners[name] = _Checkpoint(place, self._size) if name == CHECKPOINT else _Export(place)
        return self._runners[name]


class _Checkpoint:
    """PyTorch, in float32, with each picture in the smallest shape that holds it."""

    def __init__(self, path: Path, image_size: int | None) -> None:
        model = load_checkpoint(path)
        trained = int(model.metadata.get("image_size") or get_variant(model.variant).train_size)
        self.names = tuple(model.names)
        self._size = image_size or trained
        self._model = FastDetector(model)

    def refusal(self, request: Request) -> str | None:
        return None

    def __call__(self, image: Pixels, request: Request) -> Rows:
        settings = EvalSettings(
            image_size=request.image_size or self._size, nms=request.nms, augment=request.augment
        )
        return detect(self._model, [image], settings)[0]


class _Export:
    """An exported file, with each picture letterboxed into a square, as its parity was checked."""

    def __init__(self, path: Path) -> None:
        self._backend = load_exported(path)
        self.names = self._backend.names

    def refusal(self, request: Request) -> str | None:
        backend, size = self._backend, request.image_size
        if request.augment:
            return "takes one shape only, so it cannot look three times; choose checkpoint"
        if size == 0 or usable_size(backend, size) == backend.image_size:
            return None
        if backend.dynamic and backend.output == "raw":
            return None
        return f"takes {backend.image_size} pixels only, not {size}; leave the size out or choose checkpoint"

    def __call__(self, image: Pixels, request: Request) -> Rows:
        backend = self._backend
        if backend.output != "raw":
            return backend.detect([image], request.nms)[0]
        settings = EvalSettings(
            image_size=request.image_size or backend.image_size, rectangular=False, nms=request.nms
        )
        return detect(backend, [image], settings)[0]
