"""From the names on a command line to models with their detections.

A name is a run in MLflow, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, a folder that ``val`` wrote,
a file of COCO results, or whatever else `components.study.subject` opens: a checkpoint, an export, an
artifact of a run. Of models, stored detections on the dataset are looked for by digest; without any the model
is evaluated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.registry import REGISTRY, find_version
from components.store import TrackingConfig, connect
from components.study.compare.contrast import Contestant, Timing
from components.study.compare.stored import (
    DETECTIONS,
    Stored,
    find_results,
    find_timing,
    read_folder,
    read_results,
    read_run,
    read_speed,
)
from components.study.config import StudyConfig
from components.tracking.tags import TAG_MODEL
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.data.quarantine import without
from yolo_core.errors import DataError, UsageError, YoloError
from yolo_core.metrics.coco_eval import check_results
from yolo_core.metrics.coco_matching import CocoMatches, coco_matches

RUNS = "runs:/"
_COMMON = ("best", "last", "model", "val", "weights")  # names that tell nothing
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """On what the models are compared.

    Attributes:
        folders: datasets; models without stored detections are evaluated on the first.
        split: of it.
        image_size: longest side in pixels; None: as stored, else as trained.
        across: also compare what was measured on other images.
        settings: how models are evaluated.
        speeds: files of ``speed --json``, which say how fast models are.
        tracking, root: which MLflow, and the workspace.
    """

    folders: tuple[Path, ...]
    split: str
    image_size: int | None
    across: bool
    settings: StudyConfig
    speeds: tuple[Path, ...]
    tracking: TrackingConfig
    root: Path


@dataclass(kw_only=True)
class Entrants:
    """Gathers contestants under the same terms; data and connection are opened once, when needed."""

    terms: Terms
    _datasets: list[DetectionDataset] = field(default_factory=list)
    _documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    _connection: Any = None
    _answers: bool | None = None
    _speeds: dict[tuple[str, int], Timing] = field(default_factory=dict)

    def all(self, names: Sequence[str]) -> list[Contestant]:
        """Return a contestant per name, once all names are known to mean something.

        Raises:
            UsageError: a name means nothing, has no detections, or was measured on other images.
            DataError: a dataset or stored detections are broken, or detections name unknown images.
            UnreachableError: MLflow does not answer.
        """
        if not self.terms.folders:
            raise UsageError("name a dataset folder with --data")
        self._datasets = [open_dataset(folder) for folder in self.terms.folders]
        read = [read_speed(path) for path in self.terms.speeds]
        self._speeds = {(digest, size): timing for digest, size, timing in read}
        planned = [(name, *self._stored(name)) for name in names]
        self._check_places([(name, stored) for name, _, stored in planned if stored is not None])
        return [
            self._timed(self._evaluated(name, label) if stored is None else self._read(name, label, stored))
            for name, label, stored in planned
        ]

    def _stored(self, name: str) -> tuple[str, Stored | None]:
        """Return a name's label and its stored result; None if the model is to be evaluated."""
        path = Path(name)
        if name.startswith(REGISTRY):
            return self._registered(name)
        if (path / DETECTIONS).is_file():
            return self._sized(short_name(path), read_folder(path))
        if path.suffix == ".json" and path.is_file():
            return self._sized(path.stem, read_results(path, self._datasets[0].digest, self.terms.split))
        if name.startswith(RUNS):
            return name, None
        if path.exists():
            from yolo_core.export.files import digest_of

            return short_name(path), self._found(digest_of(path)) if self._has_store() else None
        if "/" in name or path.suffix:
            raise UsageError(f"no model and no folder at {name}; check the path")
        stored = read_run(self._client(), name)
        return self._sized(stored.place.removeprefix("run "), stored)

    def _sized(self, label: str, stored: Stored) -> tuple[str, Stored]:
        wanted = self.terms.image_size
        if wanted not in (None, stored.image_size):
            raise UsageError(
                f"{label} was measured at {stored.image_size} px, not {wanted}; leave --image-size out, or "
                "name the model itself to have it evaluated"
            )
        return label, stored

    def _registered(self, name: str) -> tuple[str, Stored | None]:
        client = self._client()
        version = find_version(client, name)
        alias = name.partition("@")[2]
        label = f"{version.name} v{version.version}" + (f" ({alias})" if alias else "")
        digest = version.tags.get(TAG_MODEL)
        return label, self._found(digest) if digest else None

    def _found(self, model_digest: str) -> Stored | None:
        """Return the latest stored result of a model that fits the terms, if there is one."""
        home, terms = self._datasets[0], self.terms
        images = len(home.samples(terms.split))
        for stored in find_results(self._client(), terms.tracking.experiment, model_digest, home.digest):
            sized = terms.image_size in (None, stored.image_size)
            if stored.split == terms.split and sized and (stored.images or images) >= images:
                return stored
        return None

    def _check_places(self, stored: Sequence[tuple[str, Stored]]) -> None:
        """Refuse results on other images than the home's, unless told, and on those that are not here."""
        home = self._datasets[0]
        known = {dataset.digest for dataset in self._datasets}
        for name, one in stored:
            if not self.terms.across and (one.dataset_digest, one.split) != (home.digest, self.terms.split):
                raise UsageError(
                    f"{name} was measured on other images: {one.split} of {one.dataset_digest[:19]}, not "
                    f"{self.terms.split} of {home.digest[:19]} ({home.root}); name that dataset with --data "
                    "and --split, or compare all the same with --across-datasets"
                )
            if one.dataset_digest not in known:
                raise UsageError(
                    f"{name} was measured on dataset {one.dataset_digest[:19]}, which no --data names; add "
                    "its folder, as truths are needed"
                )

    def _read(self, name: str, label: str, stored: Stored) -> Contestant:
        dataset = next(each for each in self._datasets if each.digest == stored.dataset_digest)
        samples = len(dataset.samples(stored.split))
        if stored.images is not None and stored.images < samples:
            raise DataError(
                f"{name} was measured on {stored.images} images, but {stored.split} has {samples} now, as "
                "fewer are set aside; evaluate it again"
            )
        aside = self._check_results(name, dataset, stored)
        found = [row for row in stored.detections if row["image_id"] not in aside]
        return Contestant(
            label=label,
            source=name,
            how=f"stored in {stored.place}",
            variant=stored.variant,
            model_digest=stored.model_digest,
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            split=stored.split,
            names=ordered_names(dataset),
            image_size=stored.image_size,
            settings=stored.settings,
            matches=self._matches(dataset, stored.split, found),
            reported=stored.reported,
            timing=stored.timing,
        )

    def _evaluated(self, name: str, label: str) -> Contestant:
        """Open a model and evaluate it on the first dataset."""
        from components.study.subject import open_subject
        from yolo_core.engine.evaluate import evaluate

        terms, dataset = self.terms, self._datasets[0]
        config = terms.settings
        subject = open_subject(name, device=config.device, tracking=terms.tracking, root=terms.root)
        subject.check_classes(dataset)
        settings = evaluation_settings(config, subject, terms.image_size)
        _log.info("evaluating %s on %s, %d px", label, terms.split, settings.image_size)
        evaluation = evaluate(subject.model, dataset, terms.split, settings)
        return Contestant(
            label=label,
            source=name,
            how="evaluated for this comparison",
            variant=subject.variant,
            model_digest=subject.digest,
            dataset=dataset.name,
            dataset_digest=dataset.digest,
            split=terms.split,
            names=ordered_names(dataset),
            image_size=evaluation.image_size,
            settings={
                "confidence": config.confidence,
                "iou": config.iou,
                "augment": config.augment,
                "precision": config.precision if subject.format == "checkpoint" else subject.precision,
            },
            matches=self._matches(dataset, terms.split, evaluation.detections),
            reported={"map": evaluation.metrics.map, "map50": evaluation.metrics.map50},
            timing=None,
        )

    def _timed(self, one: Contestant) -> Contestant:
        """Return a contestant with the times that its model has elsewhere, in files or a study, if any."""
        told = self._speeds.get((one.model_digest, one.image_size))
        if told is not None:
            return replace(one, timing=told)
        if one.timing is not None or one.model_digest == "unknown" or not self._has_store():
            return one
        experiment = self.terms.tracking.experiment
        return replace(one, timing=find_timing(self._client(), experiment, one.model_digest, one.image_size))

    def _matches(self, dataset: DetectionDataset, split: str, found: Sequence[dict[str, Any]]) -> CocoMatches:
        key = (dataset.digest, split)
        if key not in self._documents:
            self._documents[key] = without(dataset.annotations(split), dataset.excluded)
        return coco_matches(self._documents[key], found)

    def _check_results(self, name: str, dataset: DetectionDataset, stored: Stored) -> set[int]:
        """Refuse what is no detection on the split; return the ids of its images that are set aside."""
        listed = dataset.annotations(stored.split)["images"]
        known, place = {image["id"] for image in listed}, f"split {stored.split} of {dataset.name}"
        try:
            check_results(stored.detections, known, dataset.category_ids, place)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        return {image["id"] for image in listed if f"images/{image['file_name']}" in dataset.excluded}

    def _client(self) -> Any:
        if self._connection is None:
            self._connection = connect(self.terms.tracking, self.terms.root, create=False)
        return self._connection

    def _has_store(self) -> bool:
        """Whether stored results can be looked for; a checkpoint needs no MLflow."""
        if self._answers is None:
            try:
                self._client()
                self._answers = True
            except YoloError as error:
                _log.info("stored detections are not looked for: %s", error)
                self._answers = False
        return self._answers


def evaluation_settings(config: StudyConfig, subject: Any, image_size: int | None) -> Any:
    """Return how a model is evaluated, by the params' study section."""
    from yolo_core.engine.evaluate import EvalSettings
    from yolo_core.metrics.nms import NmsSettings

    nms = NmsSettings(confidence=config.confidence, iou=config.iou, multi_label=True)
    precision = config.precision if subject.format == "checkpoint" else "fp32"  # exports have their own
    base = EvalSettings(batch_size=config.batch_size, nms=nms, precision=precision, augment=config.augment)
    return subject.settings(image_size, base)


def ordered_names(dataset: DetectionDataset) -> tuple[str, ...]:
    """Return the class names in the order of their category ids, as matches count classes."""
    pairs = sorted(zip(dataset.category_ids, dataset.names, strict=True))
    return tuple(name for _, name in pairs)


def short_name(path: Path) -> str:
    """Return a path's last part, with its folder's where many files have that name."""
    name = path.stem if path.suffix in (".pt", ".safetensors") else path.name
    folder = path.absolute().parent.name
    return f"{folder}/{name}" if name in _COMMON and folder else name
