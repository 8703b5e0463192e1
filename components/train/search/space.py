"""What a search varies: dimensions, points spread over them, and a point put into the section ``train``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from yolo_core.engine.recipe import Hyperparameters
from yolo_core.errors import UsageError

SETTINGS = (
    *("preset", "pretrained", "image_size", "batch_size", "precision", "optimizer", "clip_norm", "schedule"),
    *("seed", "freeze", "multi_scale", "image_weights", "hflip"),
)
"""Keys of the section ``train`` that may be varied: those that change what is learned."""

_SCALES = ("linear", "log")
Point = Mapping[str, Any]
"""Values by the names of the space; an empty one is the params as they are."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """A name with either a range, its ends included, or a list of choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def at(self, share: float) -> Any:
        """Return the value at a share, 0..1, of the way from the lowest to the highest, or of the choices."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.integer and not self.log:
            return min(int(self.low + share * (self.high - self.low + 1)), int(self.high))
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        if self.integer:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.4g}"), self.low), self.high)


def read_space(space: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Read the section's ``space``.

    Raises:
        UsageError: a name is unknown, or what it may be is neither a range nor a list of choices.
    """
    return tuple(_dimension(name, given) for name, given in space.items())


def spread(space: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Return up to ``count`` different points: first the empty one, then a Latin hypercube.

    Each dimension is cut into as many slices as there are points, and each slice is used once: that covers
    every single dimension evenly, however many there are (McKay, Beckman and Conover 1979).
    """
    rng = np.random.default_rng(seed)
    drawn = count - 1
    shares = {one.name: (rng.permutation(drawn) + rng.random(drawn)) / max(drawn, 1) for one in space}
    points: list[dict[str, Any]] = [{}]
    for index in range(drawn):
        point = {one.name: one.at(float(shares[one.name][index])) for one in space}
        if point not in points:
            points.append(point)
    return points


def apply(section: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """Return the section ``train`` with a point in it: keys in their places, hyperparameters as overrides."""
    settings = {name: value for name, value in point.items() if name in SETTINGS}
    recipe = {name: value for name, value in point.items() if name not in SETTINGS}
    return {**section, **settings, "overrides": {**section["overrides"], **recipe}}


def _dimension(name: str, given: Any) -> Dimension:
    where = f"search.space.{name}"
    kinds = {item.name: item.default for item in fields(Hyperparameters)}
    if name not in kinds and name not in SETTINGS:
        known = [*kinds, *SETTINGS]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"{where} is neither a hyperparameter nor a key of train that can be varied; {hint}")
    if not isinstance(given, list) or not given:
        raise UsageError(f"{where} must be [low, high, linear or log] or a list of choices, not {given!r}")
    if len(given) == 3 and isinstance(given[2], str) and _is_number(given[0]) and _is_number(given[1]):
        low, high, scale = given
        if scale not in _SCALES:
            raise UsageError(f"{where}: the scale must be {' or '.join(_SCALES)}, not {scale!r}")
        if not low < high:
            raise UsageError(f"{where}: {low} is not below {high}")
        if scale == "log" and low <= 0:
            raise UsageError(f"{where}: a log range must start above 0, not at {low}")
        whole = isinstance(low, int) and isinstance(high, int) and not isinstance(kinds.get(name), float)
        return Dimension(name=name, low=low, high=high, log=scale == "log", integer=whole)
    return Dimension(name=name, choices=tuple(given))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
