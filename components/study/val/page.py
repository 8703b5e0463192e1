"""The page of an evaluation: figures, a table of the classes that sorts, and all pictures, in one file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from components.pages import build_page, data_url, list_facts
from components.study.compare.study_page import SORT, STYLE, Cell, sortable
from components.study.val.findings import Findings, coco_figures, per_class
from components.study.val.pictures import PICTURES, PICTURES_FOLDER

_MOST_IMAGES = 50  # of the table of images with errors
_BROAD = ("errors.png", "calibration.png")
_SHEETS = ("worst.jpg", "detections.jpg")
_STYLE = (
    STYLE
    + """\
  .figures { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; list-style: none; }
  .figures li { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .8rem; }
  .figures b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
  .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
  @media (max-width: 32rem) { .pictures { grid-template-columns: 1fr; } }
  img { background: #fff; }
  .pictures img.broad { grid-column: 1 / -1; }
  .classes .wide { max-height: 34rem; overflow: auto; }
  .classes th { position: sticky; top: 0; z-index: 1; }
  summary { cursor: pointer; color: var(--quiet); }
"""
)
_BODY = Template("""\
<p>$summary</p>
<ul class="figures">$headline</ul>
<details><summary>Model, data and settings</summary>$facts</details>
<h2>Classes</h2>
<p>Click a heading to sort. precision, recall and f1 are at confidence $confidence, where the mean F1 over the
classes is best; map50 and map are the built-in evaluation's; coco_… are the official COCO evaluation's.
– : there is no truth of that kind.</p>
<div class="classes">$classes</div>
<h2>Curves, errors, calibration, confusion</h2>
<p>Kinds of error as in TIDE (Bolya et al., 2020): what fixing all errors of a kind would win, and how
many there are from that confidence on. Calibration: of all detections of one score, how many are right.</p>
<div class="pictures">
$pictures
</div>
<h2>Images with errors</h2>
$images
$sheets""")


def write_page(
    path: Path,
    title: str,
    about: Mapping[str, Any],
    found: tuple[Findings, Sequence[Mapping[str, object]]],
) -> None:
    """Write the page.

    Args:
        path: of the HTML; the pictures are in ``pictures/`` beside it, and are embedded.
        title: names the model.
        about: what was measured on what.
        found: the findings, and a row for each image with an error, the worst first.
    """
    findings, rows = found
    evaluation = findings.evaluation
    folder = path.with_name(PICTURES_FOLDER)
    size = f" at {evaluation.image_size} px" if evaluation.image_size else ""
    body = _BODY.substitute(
        summary=html.escape(f"{about['source']}: {len(evaluation.rows)} images{size}"),
        headline=_headline(findings),
        facts=list_facts({key: "–" if value is None else value for key, value in about.items()}),
        confidence=f"{findings.confidence:.3f}",
        classes=_classes(findings),
        pictures="\n".join(_figure(folder / name) for name in PICTURES if name not in _SHEETS),
        images=_images(rows),
        sheets="\n".join(_figure(folder / name) for name in _SHEETS if (folder / name).is_file()),
    )
    heading = f"{title} on {evaluation.dataset.name}, {evaluation.split} split"
    path.write_text(build_page(heading, body, style=_STYLE, script=SORT), encoding="utf-8")


def _headline(findings: Findings) -> str:
    metrics, coco = findings.evaluation.metrics, coco_figures(findings.coco.overall)
    shown: dict[str, float | None] = {
        "mAP@.5:.95": metrics.map,
        "mAP@.5": metrics.map50,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "F1": metrics.f1,
    }
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium"}
    names |= {"ap_large": "AP large", "ar_1": "AR 1", "ar_10": "AR 10", "ar_100": "AR 100"}
    names |= {"ar_small": "AR small", "ar_medium": "AR medium", "ar_large": "AR large"}
    shown |= {f"COCO {name}": coco[key] for key, name in names.items()}
    shown |= {"calibration error": findings.calibration_error_used}
    return "".join(f"<li>{name}<b>{_number(value)}</b></li>" for name, value in shown.items())


def _classes(findings: Findings) -> str:
    rows = per_class(findings)
    cells = [
        [Cell(_shown(value), "" if value is None else value) for value in row.values()]
        for row in sorted(rows, key=lambda row: -row["instances"])
    ]
    return sortable(list(rows[0]), cells)


def _images(rows: Sequence[Mapping[str, object]]) -> str:
    if not rows:
        return "<p>None: every object is found, and nothing else.</p>"
    said = (
        f"<p>{len(rows)} images have one; the table has the worst {min(len(rows), _MOST_IMAGES)}, weighed by "
        "missed objects and the scores of wrong detections. Below, the first of them: truth left, detections "
        "right; what is missed or wrong is red (loc: box off, cls: class wrong, both, dup: found twice, bkg: "
        "nothing there), the rest green, crowds white.</p>"
    )
    heads = ("file", "missed", "wrong", "weight")
    cells = [[Cell(_shown(row[head]), row[head]) for head in heads] for row in rows[:_MOST_IMAGES]]
    return f"<details><summary>Table of images</summary>{sortable(heads, cells)}</details>\n{said}"


def _figure(path: Path) -> str:
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    name = html.escape(PICTURES[path.name])
    broad = ' class="broad"' if path.name in _BROAD else ""
    return f'<img alt="{name}"{broad} src="{data_url(path.read_bytes(), kind)}">'


def _shown(value: object) -> str:
    return _number(value) if isinstance(value, float) or value is None else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
