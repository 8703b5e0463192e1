"""What PyTorch says of real images, kept in a folder that processes of their own compare exports with.

Files: evidence.json (which images, how), raw.npy (outputs of the images that raw outputs are compared on),
and which truths PyTorch finds with validation's suppression, and with that of formats that suppress inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_core.data.coco import DetectionDataset, Sample, open_dataset
from yolo_core.data.images import Pixels
from yolo_core.data.letterbox import Letterboxed, letterbox, to_original
from yolo_core.engine.inference import VALIDATION, Rows
from yolo_core.export.backend import Backend
from yolo_core.export.limits import Parity, Tolerance
from yolo_core.export.parity import NMS, Predict, Tally, as_tensor
from yolo_core.export.parity_verdict import Accuracy
from yolo_core.metrics.bootstrap import BootstrapSettings, differences_of, intervals_of, resample
from yolo_core.metrics.coco_matching import CocoMatches, ImageTruth, load_matches, match_images, save_matches
from yolo_core.metrics.nms import NmsSettings, suppress

_ABOUT, _RAW = "evidence.json", "raw.npy"
_MATCHES = {"raw": "validation.npz", "detections": "inside.npz"}  # by a format's kind of output


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """Images of a dataset: what exports are compared on.

    Attributes:
        dataset: with the classes that the model knows.
        split: whose truth the AP is of.
        judged: images of that split.
        compared: (split, image) whose raw outputs and detections are compared; some of ``judged`` may be.
    """

    dataset: DetectionDataset
    split: str
    judged: Sequence[Sample]
    compared: Sequence[tuple[str, Sample]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One image, read and letterboxed.

    Attributes:
        image: (H, W, 3) BGR uint8.
        fitted: letterboxed to the exported square.
        raw: its row in raw.npy; None if only its AP counts.
        truth: what is to be found in it; None if it does not count for the AP.
    """

    image: Pixels
    fitted: Letterboxed
    raw: int | None
    truth: ImageTruth | None

    def rows(self, output: Tensor, nms: NmsSettings) -> Rows:
        """Return the detections in a raw output (N, 5 + nc): (n, 6) in pixels of the image."""
        found = suppress([output], nms)[0].numpy().astype(np.float32, copy=False)
        return to_original(found, self.fitted.ratio, self.fitted.pad, self.image.shape[:2])


def record(
    model: Predict,
    chosen: Chosen,
    *,
    image_size: int,
    nms: NmsSettings,
    folder: Path,
    seen: Callable[[int], object] | None = None,
) -> Evidence:
    """Run the model as trained on the chosen images, and keep what it says in a folder.

    Args:
        model: in PyTorch: (B, 3, S, S) in 0..1 -> (B, N, 5 + nc).
        chosen: the images.
        image_size: side of the exported square in pixels.
        nms: of formats that suppress inside.
        folder: where to; it must be there.
        seen: called after each image with 1.

    Raises:
        DataError: an image does not decode.
    """
    about = {
        "dataset": str(chosen.dataset.root),
        "classes": len(chosen.dataset.names),
        "split": chosen.split,
        "judged": [sample.image_id for sample in chosen.judged],
        "compared": [(split, sample.image_id) for split, sample in chosen.compared],
        "image_size": image_size,
        "nms": asdict(nms),
    }
    (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    evidence = Evidence(folder)
    raw: Any = None
    rows: dict[str, list[Rows]] = {kind: [] for kind in _MATCHES}
    truths = []
    with torch.inference_mode():
        for picture in evidence.pictures():
            output = model(as_tensor(picture.fitted.image))[0]
            if picture.raw is not None:
                if raw is None:
                    shape = (len(chosen.compared), *output.shape)
                    raw = np.lib.format.open_memmap(folder / _RAW, "w+", np.float32, shape)
                raw[picture.raw] = output.numpy()
            if picture.truth is not None:
                truths.append(picture.truth)
                rows["raw"].append(picture.rows(output, VALIDATION))
                rows["detections"].append(picture.rows(output, nms))
            if seen is not None:
                seen(1)
    if truths:
        for kind, name in _MATCHES.items():
            save_matches(folder / name, match_images(truths, rows[kind], evidence.classes), {})
    return evidence


class Evidence:
    """A folder that `record` filled."""

    def __init__(self, folder: Path) -> None:
        """Open it."""
        self.folder = folder
        self._about: Mapping[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        self.classes = int(self._about["classes"])
        self.image_size = int(self._about["image_size"])
        self.nms = NmsSettings(**self._about["nms"])

    @cached_property
    def raw(self) -> Any:
        """PyTorch's outputs, (images, N, 5 + nc), read from the disk piece by piece."""
        return np.load(self.folder / _RAW, mmap_mode="r")

    def matches(self, output: str) -> CocoMatches:
        """Return what PyTorch finds, with the suppression of formats of this kind of output."""
        return load_matches(self.folder / _MATCHES[output])[0]

    def pictures(self) -> Iterator[Picture]:
        """Yield the images whose AP counts, in their order, and after them those that are only compared."""
        dataset, split = open_dataset(Path(self._about["dataset"])), self._about["split"]
        rows = {(part, image): row for row, (part, image) in enumerate(self._about["compared"])}
        judged = dict.fromkeys((split, image) for image in self._about["judged"])
        places = list(dict.fromkeys((*judged, *rows)))
        known = {part: _by_id(dataset, part) for part in {part for part, _ in places}}
        for place in places:
            sample = known[place[0]][place[1]]
            truth = ImageTruth(
                boxes=sample.boxes.astype(np.float64), classes=sample.classes, crowd=sample.crowd
            )
            image = sample.read_image()
            yield Picture(
                image=image,
                fitted=letterbox(image, (self.image_size, self.image_size), scale_up=True),
                raw=rows.get(place),
                truth=truth if place in judged else None,
            )


def check(
    evidence: Evidence, backend: Backend, tolerance: Tolerance, draws: BootstrapSettings
) -> tuple[Parity, Accuracy | None]:
    """Run an export on the images of the evidence and compare it with PyTorch.

    Of formats that suppress inside, PyTorch's outputs are suppressed by the same settings; their raw errors
    are None. The accuracy is None where no image has a truth.

    Raises:
        DataError: an image does not decode.
    """
    inside = backend.output == "detections"
    lowest = evidence.nms.confidence + tolerance.score if inside else 0.0
    tally = Tally(tolerance=tolerance, confidence=max(NMS.confidence, lowest))
    truths: list[ImageTruth] = []
    rows: list[Rows] = []
    pictures = evidence.pictures()
    with torch.inference_mode():
        while group := list(islice(pictures, backend.batch_size)):
            found = _detections(evidence, backend, group) if inside else _raw(evidence, backend, group, tally)
            for picture, detected in zip(group, found, strict=True):
                if inside and picture.raw is not None:
                    expected = picture.rows(_expected(evidence, picture), evidence.nms)
                    tally.add_detections(torch.from_numpy(expected), torch.from_numpy(detected))
                if picture.truth is not None:
                    truths.append(picture.truth)
                    rows.append(detected)
    return tally.result(), _accuracy(evidence, backend, (truths, rows), draws)


def _detections(evidence: Evidence, backend: Backend, group: Sequence[Picture]) -> list[Rows]:
    return backend.detect([picture.image for picture in group], evidence.nms)


def _raw(evidence: Evidence, backend: Backend, group: Sequence[Picture], tally: Tally) -> list[Rows]:
    """Run a group, tally its raw outputs, and return its detections with validation's suppression."""
    outputs = backend(torch.cat([as_tensor(picture.fitted.image) for picture in group]))
    for picture, output in zip(group, outputs, strict=True):
        if picture.raw is not None:
            tally.add(_expected(evidence, picture)[None], output[None])
    return [picture.rows(output, VALIDATION) for picture, output in zip(group, outputs, strict=True)]


def _expected(evidence: Evidence, picture: Picture) -> Tensor:
    return torch.from_numpy(np.array(evidence.raw[picture.raw]))


def _accuracy(
    evidence: Evidence, backend: Backend, found: tuple[list[ImageTruth], list[Rows]], draws: BootstrapSettings
) -> Accuracy | None:
    truths, rows = found
    objects = sum(int((~truth.crowd).sum()) for truth in truths)
    if not objects:
        return None
    # What is no number finds nothing.
    finite = [part[np.isfinite(part).all(1)] for part in rows]
    own = resample(match_images(truths, finite, evidence.classes), draws)
    pytorch = resample(evidence.matches(backend.output), draws)
    own_ap, pytorch_ap, change = intervals_of(own), intervals_of(pytorch), differences_of(own, pytorch)
    return Accuracy(
        images=len(truths),
        objects=objects,
        ap=own_ap.ap.value,
        ap50=own_ap.ap50.value,
        pytorch_ap=pytorch_ap.ap.value,
        pytorch_ap50=pytorch_ap.ap50.value,
        difference=change.ap,
        difference50=change.ap50,
    )


def _by_id(dataset: DetectionDataset, split: str) -> dict[int, Sample]:
    return {sample.image_id: sample for sample in dataset.samples(split)}
