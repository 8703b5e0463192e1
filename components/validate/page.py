"""The summary as one page that needs nothing else: what the data are, what is wrong, and where."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2

from components.pages import build_page, data_url, list_facts
from components.validate.offenders import draw_offenders
from components.validate.pictures import draw_centres, draw_classes, draw_sizes
from components.validate.report import describe
from components.validate.rules import BLOCK
from components.validate.suite import Outcome
from components.validate.tables import Tables
from components.validate.verdict import Verdict
from yolo_core.data.coco import DetectionDataset

PAGE, SHEET = "summary.html", "offenders.jpg"
_QUALITY = 90  # of the contact sheet
_LISTED = 50  # images set aside that the page names
_STYLE = """\
  h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
  .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem; }
  td.number { text-align: right; }
  .passed, .failed { border-radius: .4rem; font-weight: 600; padding: .5rem .9rem; }
  .passed { background: var(--good); color: var(--good-ink); }
  .failed { background: var(--bad); color: var(--bad-ink); }
  tr.block td:first-child { border-left: .3rem solid #c5221f; }
  tr.warn td:first-child { border-left: .3rem solid #e8a600; }
  tr.fine td:first-child { border-left: .3rem solid #188038; }
  tr.skipped td { color: var(--quiet); }
"""
_BODY = Template("""\
<p class="$state">$verdict</p>
$facts
<h2>Rules</h2>
<div class="wide"><table>
<thead><tr><th>rule</th><th>severity</th><th>demand</th><th>broken by</th></tr></thead>
<tbody>
$rules
</tbody></table></div>
<p>Every offender is in <a href="offenders.csv">offenders.csv</a>, every expectation in the
<a href="data_docs/index.html">Data Docs</a>.</p>
$quarantine
$offenders
<h2>Splits</h2>
<p>Distances are Jensen-Shannon distances from training: 0 is alike, 1 has nothing in common.</p>
<div class="wide"><table><thead><tr><th>split</th><th>images</th><th>boxes</th><th>images without boxes</th>
<th>distance of classes</th><th>distance of box sizes</th></tr></thead>
<tbody>
$splits
</tbody></table></div>
<h2>Drift from the champion</h2>
$drift
<h2>Boxes of each class</h2>
<img alt="Boxes of each class and split" src="$classes">
<div class="pair">
<div><h2>Box sizes</h2><img alt="Histogram of box sizes" src="$sizes"></div>
<div><h2>Where boxes are</h2><img alt="Heat map of box centres" src="$centres"></div>
</div>""")


def write_page(
    dataset: DetectionDataset, tables: Tables, outcomes: list[Outcome], context: tuple[Verdict, Path]
) -> Path:
    """Write summary.html, and offenders.jpg if an image breaks a rule, into the folder; returns the page."""
    verdict, folder = context
    offenders = draw_offenders(dataset, tables, outcomes)
    section = ""
    if offenders is not None:
        content = cv2.imencode(".jpg", offenders, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        (folder / SHEET).write_bytes(content)
        source = data_url(content, "jpeg")
        section = f'<h2>Worst images</h2>\n<img alt="The worst images with their boxes" src="{source}">'
    body = _BODY.substitute(
        state="passed" if verdict.passed else "failed",
        verdict=html.escape(_say(verdict, outcomes)),
        facts=_facts(dataset, tables),
        rules="\n".join(_rule(outcome, tables) for outcome in sorted(outcomes, key=_concern)),
        quarantine=_quarantine(verdict),
        offenders=section,
        splits=_rows(tables.splits.drop(columns="row").itertuples(index=False)),
        drift=_drift(tables),
        classes=_picture(draw_classes, dataset, tables),
        sizes=_picture(draw_sizes, dataset, tables),
        centres=_picture(draw_centres, dataset, tables),
    )
    page = build_page(f"Dataset {dataset.name}", body, style=_STYLE)
    (folder / PAGE).write_text(page, encoding="utf-8")
    return folder / PAGE


def _say(verdict: Verdict, outcomes: list[Outcome]) -> str:
    warned = sum(not outcome.success and outcome.severity != BLOCK for outcome in outcomes)
    warnings = f"; {warned} {'rule warns' if warned == 1 else 'rules warn'}" if warned else ""
    if not verdict.passed:
        return f"Not fit for training: {verdict.reason}{warnings}."
    if verdict.quarantine:
        count = len(verdict.quarantine)
        aside = "an image that is" if count == 1 else f"{count:,} images that are"
        return f"Fit for training without {aside} set aside{warnings}."
    return f"Fit for training{warnings}."


def _facts(dataset: DetectionDataset, tables: Tables) -> str:
    return list_facts(
        {
            "digest": dataset.digest,
            "images": f"{len(tables.images):,}",
            "annotations": f"{len(tables.annotations):,}",
            "classes": f"{len(dataset.names):,}",
        }
    )


def _concern(outcome: Outcome) -> int:
    """Sort what blocks before what warns, and that before what holds."""
    return 2 if outcome.success else int(not outcome.blocks)


def _rule(outcome: Outcome, tables: Tables) -> str:
    if outcome.skipped:
        state, found = "skipped", outcome.skipped
    elif outcome.success:
        state, found = "fine", ""
    else:
        state, found = outcome.severity, describe(outcome, tables).partition(": ")[2]
    cells = (outcome.rule.name, outcome.severity, outcome.rule.demand, found)
    return f'<tr class="{state}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _quarantine(verdict: Verdict) -> str:
    if not verdict.quarantine:
        return ""
    listed = list(verdict.quarantine.items())
    more = f"<p>and {len(listed) - _LISTED:,} more</p>" if len(listed) > _LISTED else ""
    rows = _rows((path, ", ".join(rules)) for path, rules in listed[:_LISTED])
    return (
        f"<h2>Set aside</h2><p>{verdict.percent:.2g} % of the images; the budget is {verdict.budget:g} %.</p>"
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div>{more}'
    )


def _drift(tables: Tables) -> str:
    about = f"<p>{html.escape(tables.reference)}</p>"
    if not len(tables.drift):
        return about
    head = "<thead><tr><th>property</th><th>distance</th><th>at most</th></tr></thead>"
    rows = _rows(tables.drift.drop(columns="row").itertuples(index=False))
    return f'{about}<div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _rows(records: Iterable[Sequence[Any]]) -> str:
    return "\n".join("<tr>" + "".join(map(_cell, record)) + "</tr>" for record in records)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def _picture(draw: Any, dataset: DetectionDataset, tables: Tables) -> str:
    target = io.BytesIO()
    draw(dataset, tables, target)
    return data_url(target.getvalue(), "png")
