"""STAGES to dvc.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from pipelines.stage import VARIANT, Stage

_ITEM = "${item}"
_HEADER = """\
# Generated from pipelines/stages.py by `make render`; do not edit.
"""
# Axes, x and y, of the plots that `dvc plots show` draws, by the folder or file they are in.
_AXES = {
    "reports/train": ("epoch", "map50"),
    "reports/study/sizes": ("image_size", "map"),
    "reports/study/curve": ("recall", "precision"),
    "reports/study.csv": ("inference_ms", "map"),
}


def to_dvc(stages: Sequence[Stage]) -> str:
    """Return the text of dvc.yaml.

    A stage per variant becomes a ``foreach`` over the list in params.yaml, so that another variant there
    needs no new dvc.yaml.
    """
    document = {"stages": {stage.name: _entry(stage) for stage in stages}}
    return _HEADER + yaml.safe_dump(document, sort_keys=False, width=120)


def _entry(stage: Stage) -> dict[str, Any]:
    if stage.foreach is None:
        return _body(stage)
    return {"foreach": f"${{{stage.foreach}}}", "do": _body(stage)}


def _body(stage: Stage) -> dict[str, Any]:
    variant = _ITEM if stage.foreach else None
    body: dict[str, Any] = {"cmd": " ".join(stage.command(variant))}
    lists = {
        "deps": [*_paths(stage.inputs), *stage.code],
        "params": list(stage.params),
        "outs": _paths(stage.outputs),
        "metrics": _paths(stage.metrics),
        "plots": [_plot(path) for path in _paths(stage.plots)],
    }
    return body | {key: value for key, value in lists.items() if value}


def _paths(paths: Iterable[str]) -> list[str]:
    return [path.replace(VARIANT, _ITEM) for path in paths]


def _plot(path: str) -> dict[str, Any] | str:
    for place, (x, y) in _AXES.items():
        if path.startswith(place):
            return {path: {"x": x, "y": y}}
    return path
