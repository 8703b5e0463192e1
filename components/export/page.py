"""The export report as one page that needs nothing else: verdicts, a table of all formats, a plot, limits."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from components.pages import build_page, data_url, list_facts

Row = Mapping[str, Any]

_STYLE = """\
  body { max-width: 110rem; }
  h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
  table.figures { font-size: 13px; }
  table.figures th, table.figures td { text-align: right; white-space: nowrap; padding: .25rem .45rem; }
  table.figures th { white-space: normal; min-width: 3rem; vertical-align: bottom; }
  table.figures td:first-child, table.figures th:first-child { text-align: left; }
  tr.ship td:first-child { font-weight: 600; }
  td.PASS, td.FAIL { font-weight: 600; }
  td.PASS { background: var(--good); color: var(--good-ink); }
  td.FAIL { background: var(--bad); color: var(--bad-ink); }
  td.INSUFFICIENT { color: var(--quiet); }
  p.ship { border-left: .3rem solid #2a8a45; padding-left: .7rem; }
  p.rule, li { max-width: 60rem; overflow-wrap: anywhere; }
  p.rule { color: var(--quiet); }
"""
_BODY = Template("""\
<p class="ship">$ship</p>
$facts
<h2>Formats</h2>
<div class="wide" tabindex="0"><table class="figures">
<thead><tr>$heads</tr></thead>
<tbody>
$rows
</tbody>
</table></div>
<p class="rule">$told</p>
$reasons
<h2>AP and speed</h2>
<img alt="AP over milliseconds per picture" src="$plot">
<h2>Limits by precision</h2>
<div class="wide" tabindex="0"><table class="figures">
<thead><tr>$limit_heads</tr></thead>
<tbody>
$limits
</tbody>
</table></div>
""")
_TOLD = (
    "Model: milliseconds of the model alone per image, one image per call and $batch per call. Picture: from "
    "one decoded picture to its detections, letterbox and suppression included. Faster: PyTorch's time over "
    "this format's, of the model alone, or of the picture where a format suppresses inside. APs are in "
    "points (hundredths), by COCO's rule with 101 recall points; of formats that suppress inside, both are "
    "suppressed by the settings inside, and AP is lower. The difference is the format's AP minus PyTorch's, "
    "with a paired bootstrap interval over the images (95 %). Matched: share of the detections that have a "
    "counterpart. Errors are of raw outputs over all boxes, in pixels and score. A dash: not measured."
)
_ERRORS = ("max_box_error", "mean_box_error", "max_score_error", "mean_score_error")
_LIMITS = {
    "max_box_error": "box error, px",
    "max_score_error": "score error",
    "min_matched": "matched at least",
    "same_iou": "counterpart: IoU at least",
    "same_score": "counterpart: scores apart",
    "max_ap_loss": "AP loss, points",
    "max_ap50_loss": "AP50 loss, points",
}


def report_page(content: Mapping[str, Any], plot: bytes) -> str:
    """Return the HTML of the page.

    Args:
        content: of parity.json.
        plot: the PNG to embed.
    """
    formats: Mapping[str, Row] = content["formats"]
    batch = content["latency_batch"]
    rows = [_pytorch_row(content["pytorch"]), *(_row(name, row, content) for name, row in formats.items())]
    body = _BODY.substitute(
        ship=_escape(_ship(content)),
        facts=list_facts(_facts(content)),
        heads=_heads(batch),
        rows="\n".join(rows),
        told=Template(_TOLD).substitute(batch=batch),
        reasons=_reasons(formats),
        plot=data_url(plot, "png"),
        limit_heads="".join(f'<th scope="col">{name}</th>' for name in ("precision", *_LIMITS.values())),
        limits="\n".join(_limit_row(name, row) for name, row in content["limits"].items()),
    )
    return build_page(f"Exports of {content['variant']}", body, style=_STYLE)


def _ship(content: Mapping[str, Any]) -> str:
    """Say which format to ship."""
    name = content["ship"]
    if name is None:
        return "No format passed, so none is recommended."
    row, pytorch = content["formats"][name], content["pytorch"].get("detect_ms")
    pace = f", PyTorch takes {pytorch:.1f} ms" if pytorch else ""
    return (
        f"Ship {name} ({row['precision']}): of the formats that passed, it is the fastest from picture to "
        f"detections ({row['detect_ms']:.1f} ms{pace})."
    )


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    size, batch = content["image_size"], content["batch_size"]
    shape = "batch, height and width open" if content["dynamic"] else f"{batch} x 3 x {size} x {size}"
    return {
        "input": f"{shape}, proposed {batch} x 3 x {size} x {size}" if content["dynamic"] else shape,
        "AP": f"{content['ap_images']} images of {content['dataset']}, split {content['split']}",
        "raw outputs and detections": f"{len(content['images'])} images",
        "times": f"median on this CPU, {content['threads']} threads, one format after another",
        "weights": content["model_digest"],
        "dataset": content["dataset_digest"],
        "licence of the weights": content["licence"] or "not stated",
    }


def _heads(batch: int) -> str:
    names = (
        "format",
        "precision",
        "verdict",
        "MB",
        "export, s",
        "model, ms",
        f"model, ms at {batch}",
        "picture, ms",
        "faster",
        "AP",
        "AP difference",
        "AP50 difference",
        "matched",
        "box error: max",
        "mean",
        "score error: max",
        "mean",
    )
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _pytorch_row(row: Row) -> str:
    cells = ["PyTorch", "fp32", "–", "–", "–", *_times(row), "1", _points(row.get("ap"))]
    return _cells([*cells, *["–"] * 7])


def _row(name: str, row: Row, content: Mapping[str, Any]) -> str:
    cells = [
        name,
        str(row.get("precision", "–")),
        row["verdict"],
        _number(row.get("megabytes"), ".1f"),
        _number(row.get("export_seconds"), ".1f"),
        *_times(row),
        _number(row.get("times_faster"), ".2f"),
        _points(row.get("ap")),
        _difference(row, "ap"),
        _difference(row, "ap50"),
        _number(row.get("matched"), ".2%"),
        *(_number(row.get(name), ".2g") for name in _ERRORS),
    ]
    return _cells(cells, "ship" if name == content["ship"] else "", row["verdict"])


def _times(row: Row) -> list[str]:
    return [_number(row.get(key), ".1f") for key in ("latency_ms", "batch_latency_ms", "detect_ms")]


def _difference(row: Row, name: str) -> str:
    key = f"{name}_difference"
    if row.get(key) is None:
        return "–"
    low, high = (_points(row[f"{key}_{end}"], "+") for end in ("low", "high"))
    return f"{_points(row[key], '+')} [{low}, {high}]"


def _reasons(formats: Mapping[str, Row]) -> str:
    """Say of every format that did not pass why."""
    lines = [
        f"<li><b>{_escape(name)}</b>: {row['verdict']}: {_escape('; '.join(row['reasons']))}</li>"
        for name, row in formats.items()
        if row["reasons"]
    ]
    return f"<h2>Why not</h2>\n<ul>\n{chr(10).join(lines)}\n</ul>" if lines else ""


def _limit_row(precision: str, limits: Row) -> str:
    cells = [precision]
    for name in _LIMITS:
        value = limits[name]
        shown = 100 * value if value is not None and name.endswith("_loss") else value
        cells.append("not judged" if shown is None else f"{shown:g}")
    return _cells(cells)


def _cells(cells: Sequence[str], kind: str = "", verdict: str = "") -> str:
    shown = "".join(
        f'<td class="{cell}">{cell}</td>' if cell == verdict else f"<td>{_escape(cell)}</td>"
        for cell in cells
    )
    return f'<tr class="{kind}">{shown}</tr>' if kind else f"<tr>{shown}</tr>"


def _points(value: float | None, sign: str = "") -> str:
    return _number(None if value is None else 100 * value, f"{sign}.2f")


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form) if math.isfinite(value) else "not finite"


def _escape(value: str) -> str:
    return html.escape(value)
