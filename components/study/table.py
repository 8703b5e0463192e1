"""A study as the release's text table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The release's columns, in its order. Its three losses are a training's: a study computes none.
_COLUMNS = (
    "precision",
    "recall",
    "map50",
    "map",
    "box_loss",
    "obj_loss",
    "cls_loss",
    "preprocess_ms",
    "inference_ms",
    "nms_ms",
)
_WIDTH = 13


def release_table(report: Mapping[str, Any]) -> str:
    """Return one row per size, by rising size, as text that `numpy.loadtxt` reads.

    Columns: P, R, mAP@.5, mAP@.5:.95, the three losses (nan: a study computes none), and the milliseconds per
    image of preparation, model and suppression. Lines that begin with # say what the rows are.
    """
    points = sorted(report["points"], key=lambda point: int(point["image_size"]))
    head = [
        f"# {report['variant']} on {report['dataset']}, {report['split']} split",
        f"# image sizes: {' '.join(str(point['image_size']) for point in points)}",
        "#" + " ".join(name.rjust(_WIDTH) for name in _COLUMNS)[1:],
    ]
    rows = [" ".join(_cell(point.get(name)).rjust(_WIDTH) for name in _COLUMNS) for point in points]
    return "\n".join([*head, *rows]) + "\n"


def _cell(value: Any) -> str:
    return "nan" if value is None else f"{value:.5g}"
