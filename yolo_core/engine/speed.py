"""How long a detector takes, part by part: preparation, model and suppression, in milliseconds per image.

A measurement must not change what it measures. All pixels are decoded and placed before the clock starts, so
that no thread works beside the model; what only happens once for a shape (a library choosing and compiling
its kernels) happens in an untimed call; and the clock is read four times per batch, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yolo_core.data.cache import ImageSource
from yolo_core.data.eval_loader import EvalBatch, EvalLoader
from yolo_core.data.samples import Sample
from yolo_core.engine.inference import (
    BatchOutput,
    EvalSettings,
    Predictor,
    Timed,
    loader_settings,
    prepared,
    running,
)

PARTS = ("preprocess", "inference", "nms", "total")
_WARM_UP_BATCHES = 2
_LEVELS = (50, 90, 95, 99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Milliseconds per image over the timed batches: their mean, and what 50, 90, 95, 99 % stay under."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Milliseconds per image of each part.

    The figures without a level are medians: a few slow batches, the first or disturbed, do not count.

    Attributes:
        preprocess: resizing, placing, conversion to floats on the device; decoding files is left out.
        inference: the model.
        nms: non-maximum suppression.
        total: all three of a batch together.
        batches: that were timed; 0: nothing was, and every figure is 0.
    """

    preprocess: Spread
    inference: Spread
    nms: Spread
    total: Spread
    batches: int

    @property
    def preprocess_ms(self) -> float:
        """Median of the preparation."""
        return self.preprocess.p50

    @property
    def inference_ms(self) -> float:
        """Median of the model."""
        return self.inference.p50

    @property
    def nms_ms(self) -> float:
        """Median of the suppression."""
        return self.nms.p50

    @property
    def total_ms(self) -> float:
        """The three medians together."""
        return self.preprocess_ms + self.inference_ms + self.nms_ms

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Return part -> mean, p50, p90, p95, p99."""
        return {part: asdict(getattr(self, part)) for part in PARTS}


def milliseconds(batch: EvalBatch, output: BatchOutput) -> tuple[float, float, float]:
    """Return the milliseconds per image of a batch: preparation, model, suppression."""
    scale = 1000 / len(batch.samples)
    preparation = batch.preprocess_seconds + output.convert_seconds
    return preparation * scale, output.forward_seconds * scale, output.nms_seconds * scale


def summarise_times(times: NDArray[np.float64]) -> Speed:
    """Return the spread of (batches, 3) milliseconds per image of preparation, model and suppression."""
    columns = [*times.T, times.sum(axis=1)]
    return Speed(
        **{part: _spread(column) for part, column in zip(PARTS, columns, strict=True)}, batches=len(times)
    )


def measure_speed(
    model: Predictor,
    samples: Sequence[Sample],
    settings: EvalSettings,
    *,
    images: int,
    repeats: int = 1,
    cache: ImageSource | None = None,
) -> Speed:
    """Time a detector on up to ``images`` of some images, spread evenly over them, ``repeats`` times.

    Two untimed batches come first, and one more before each change of the batches' shape. All pixels are held
    in memory: ``images`` x size x size x 3 bytes. A last batch that is not full is left out, unless it is the
    only one: its time per image is another figure.

    Raises:
        DataError: there are no images, or one does not decode.
    """
    chosen = np.linspace(0, len(samples) - 1, min(images, len(samples))).round().astype(int)
    loader = EvalLoader([samples[index] for index in chosen], loader_settings(model, settings), cache)
    batches = list(loader)
    if len(batches) > 1 and len(batches[-1].samples) < settings.batch_size:
        batches.pop()
    model = prepared(model, settings)
    with running(model, settings) as run:
        for batch in batches[:_WARM_UP_BATCHES]:
            run(batch.images)
        times = [time for _ in range(repeats) for time in _timed(batches, run)]
    return summarise_times(np.array(times).reshape(-1, 3))


def _timed(batches: Sequence[EvalBatch], run: Timed) -> Iterator[tuple[float, float, float]]:
    shape: tuple[int, ...] | None = None
    for batch in batches:
        if batch.images.shape != shape:
            shape = _warm(run, batch.images)
        yield milliseconds(batch, run(batch.images))


def _warm(run: Timed, images: Tensor) -> tuple[int, ...]:
    """Run a shape once, so that what a library prepares for it does not count; returns the shape."""
    run(images)
    return tuple(images.shape)


def _spread(column: NDArray[np.float64]) -> Spread:
    if not len(column):
        return Spread(mean=0.0, p50=0.0, p90=0.0, p95=0.0, p99=0.0)
    p50, p90, p95, p99 = np.percentile(column, _LEVELS).tolist()
    return Spread(mean=float(column.mean()), p50=p50, p90=p90, p95=p95, p99=p99)
