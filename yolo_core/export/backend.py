"""An exported model that is ready to run, the same way whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.images import Pixels
from yolo_core.data.letterbox import letterbox, to_original
from yolo_core.engine.evaluate import EvalSettings, Rows, detect
from yolo_core.errors import CheckpointError, UsageError
from yolo_core.metrics.nms import NmsSettings


class Backend:
    """An exported model: images (B, 3, H, W) in 0..1 -> (B, N, 5 + nc).

    Attributes:
        metadata: what the file says of itself; see `yolo_core.export.metadata.metadata_of`.
        format, precision, input, output: its kind; see `yolo_core.export.base.Format`.
        names: of the classes, by index.
        stride: the largest, in pixels.
        image_size, batch_size: the only ones that the file takes, or if ``dynamic``, the ones it proposes.
        dynamic: whether any batch, and any height and width that are multiples of the stride, will do.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], metadata: Mapping[str, Any]) -> None:
        """``run`` takes exactly the batch that was exported, float32, contiguous, on the CPU."""
        self._run = run
        self.metadata = dict(metadata)
        self.format = str(metadata["format"])
        self.precision = str(metadata.get("precision", "fp32"))
        self.input = str(metadata.get("input", "tensor"))
        self.output = str(metadata.get("output", "raw"))
        self.names = tuple(metadata["names"])
        self.stride = int(max(metadata["stride"]))
        self.image_size = int(metadata["image_size"])
        self.batch_size = int(metadata["batch_size"])
        self.dynamic = bool(metadata.get("dynamic", False))

    def __call__(self, images: Tensor) -> Tensor:
        """Run any number of images of the exported size, by batches of the exported size.

        Raises:
            UsageError: the images have another size.
            CheckpointError: the file knows another number of classes than its metadata names.
        """
        outputs = self._by_batches(images)
        if outputs.shape[-1] != 5 + len(self.names):
            raise CheckpointError(
                f"this export gives {outputs.shape[-1] - 5} class scores, but names {len(self.names)} "
                "classes; export it again"
            )
        return outputs

    def detect(self, images: Sequence[NDArray[np.uint8]], nms: NmsSettings | None = None) -> list[Rows]:
        """Find objects in pictures of any size: (H, W, 3) BGR uint8 each.

        Args:
            images: the pictures.
            nms: what to keep; None: the file's own where it has some, otherwise the defaults. A file that
                suppresses inside can be stricter in scores and number, no more.

        Returns:
            Per picture (n, 6) float32: xyxy in its pixels, score, class index; best first.

        Raises:
            UsageError: the file cannot do what ``nms`` asks for.
        """
        settings = EvalSettings(
            image_size=self.image_size,
            batch_size=self.batch_size,
            rectangular=False,
            nms=nms or NmsSettings(),
        )
        return detect(self, images, settings)

    def _by_batches(self, images: Tensor) -> Tensor:
        self._check(images)
        plain = images.detach().to("cpu", torch.float32).contiguous()
        if self.dynamic:
            return self._run(plain)
        parts = []
        for start in range(0, len(plain), self.batch_size):
            part = plain[start : start + self.batch_size]
            missing = self.batch_size - len(part)
            filled = torch.cat((part, part.new_zeros(missing, *part.shape[1:]))) if missing else part
            parts.append(self._run(filled)[: len(part)])
        # The 25,200 outputs of 640 px are 8.6 MB: another copy costs as much as a few layers.
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check(self, images: Tensor) -> None:
        side, shape = self.image_size, tuple(images.shape)
        if len(shape) == 4 and shape[0] == 0:
            raise UsageError("an export needs one image at least")
        if not self.dynamic:
            if len(shape) != 4 or shape[1:] != (3, side, side):
                raise UsageError(
                    f"this export takes images of shape (B, 3, {side}, {side}), not {shape}; "
                    "letterbox them to it, or export at another size"
                )
        elif len(shape) != 4 or shape[1] != 3 or any(not n or n % self.stride for n in shape[2:]):
            raise UsageError(
                f"this export takes images of shape (B, 3, H, W), H and W multiples of {self.stride}, "
                f"not {shape}; letterbox them to such a size"
            )


class DetectingBackend(Backend):
    """An exported model that suppresses inside the file, and gives detections only.

    ``run`` takes what its metadata says: a batch of tensors, to give (B, n, 6) rows of x1, y1, x2, y2, score,
    class, where a score of 0 marks rows that only fill up; or one BGR image, (H, W, 3) uint8, to give (n, 6)
    in pixels of that image.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], metadata: Mapping[str, Any]) -> None:
        """Take what `Backend` takes; `CheckpointError` if it does not say what suppression is inside."""
        super().__init__(run, metadata)
        try:
            self.nms = NmsSettings(**metadata["nms"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"this export does not say what suppression it holds ({error!r}); export it again"
            ) from None

    def __call__(self, images: Tensor) -> Tensor:
        """Refuse: there are no raw outputs; `UsageError` says what to call."""
        raise UsageError(
            f"format {self.format} suppresses inside the file and has no raw outputs; "
            "use detect(), or export a format that gives them, such as onnx"
        )

    def detect(self, images: Sequence[NDArray[np.uint8]], nms: NmsSettings | None = None) -> list[Rows]:
        """Find objects in pictures; see `Backend.detect`."""
        wanted = self._stricter(nms or self.nms)
        found = self._in_images(images) if self.input == "image" else self._in_tensors(images)
        return [rows[rows[:, 4] > wanted.confidence][: wanted.max_detections] for rows in found]

    def _stricter(self, wanted: NmsSettings) -> NmsSettings:
        """Return what is wanted if the file's detections hold it all.

        Better boxes alone decide whether one is suppressed, so leaving out weak ones later gives the same.
        """
        own = self.nms
        same = ("iou", "multi_label", "agnostic", "max_candidates")
        if any(getattr(wanted, name) != getattr(own, name) for name in same) or (
            wanted.confidence < own.confidence or wanted.max_detections > own.max_detections
        ):
            raise UsageError(
                f"format {self.format} was exported with {own}; it cannot do {wanted}; export it with that"
            )
        return wanted

    def _in_images(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[Rows]:
        for image in images:
            yield self._run(torch.from_numpy(np.ascontiguousarray(image))).numpy()

    def _in_tensors(self, images: Sequence[Pixels]) -> Iterator[Rows]:
        side = (self.image_size, self.image_size)
        for start in range(0, len(images), self.batch_size):
            group = images[start : start + self.batch_size]
            fitted = [letterbox(image, side, scale_up=True) for image in group]
            pixels = np.stack([cv2.cvtColor(place.image, cv2.COLOR_BGR2RGB) for place in fitted])
            outputs = self._by_batches(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
            for rows, place, image in zip(outputs.numpy(), fitted, group, strict=True):
                real = np.ascontiguousarray(rows[rows[:, 4] > 0])
                yield to_original(real, place.ratio, place.pad, image.shape[:2])
