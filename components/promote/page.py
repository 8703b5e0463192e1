"""The gates' judgement as one page that needs nothing else, and as lines of text."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.pages import build_page, list_facts
from components.promote.gates import Judgement

JSON, PAGE = "gates.json", "gates.html"
_STYLE = """\
  td.PASS, td.win { color: var(--good-ink); background: var(--good); }
  td.FAIL, td.lose { color: var(--bad-ink); background: var(--bad); }
  td.PASS, td.FAIL, td.INSUFFICIENT { font-weight: 600; }
  p.verdict { font-size: 1.2rem; }
"""
_HEADS = ("rule", "weighs", "verdict", "what was found")
_CLASS_HEADS = (
    "class",
    "images",
    "boxes",
    "champion, AP %",
    "challenger, AP %",
    "difference, points",
    "verdict",
)
_TOLD = (
    "AP is COCO's, over IoU .5 to .95, in percent. Intervals come from the paired bootstrap over the images; "
    "those of the classes are so wide that all of them together have the configured level."
)


def write_report(judgement: Judgement, folder: Path) -> None:
    """Write gates.json and gates.html to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(judgement.text, encoding="utf-8")
    (folder / PAGE).write_text(judgement_page(judgement), encoding="utf-8")


def judgement_page(judgement: Judgement) -> str:
    """Return the HTML of a whole page."""
    found = judgement.document
    over = (
        f"champion version {judgement.champion}"
        if judgement.champion
        else "no champion: the first rules count"
    )
    facts = {
        "registered model": judgement.model,
        "challenger": f"version {judgement.version}",
        "against": over,
    }
    place = found["measured_on"]
    if place:
        facts["images"] = f"{place['images']:,} of {place['split']}, dataset {place['dataset_digest'][:19]}"
        facts["detections"] = f"challenger {place['challenger']}"
        if place["champion"]:
            facts["detections"] += f"; champion {place['champion']}"
    body = [
        f'<p class="verdict"><strong>{judgement.verdict}</strong>: {html.escape(judgement.reason)}</p>',
        list_facts(facts),
        "<h2>Rules</h2>",
        _table(_HEADS, [_rule(row) for row in found["rules"]]),
    ]
    if found["classes"]:
        rows = [_class(row) for row in sorted(found["classes"], key=lambda row: float(row["difference"]))]
        body += ["<h2>Classes</h2>", f"<p>{_TOLD}</p>", _table(_CLASS_HEADS, rows)]
    title = f"{judgement.model} version {judgement.version}: {judgement.verdict}"
    return build_page(title, "\n".join(body), style=_STYLE)


def lines(judgement: Judgement) -> list[str]:
    """Return a line per rule for people."""
    width = max(len(ruling.rule) for ruling in judgement.rulings)
    return [
        f"{ruling.finding.verdict:12} {ruling.rule:{width}} {ruling.severity:5}  {ruling.finding.text}"
        for ruling in judgement.rulings
    ]


def _rule(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = [(row["rule"], ""), (row["severity"], ""), (row["verdict"], row["verdict"])]
    return [*said, (row["text"], "")]


def _class(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    difference = f"{100 * row['difference']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})"
    counts = [(row["class"], ""), (str(row["images"]), ""), (str(row["boxes"]), "")]
    aps = [(f"{100 * row[key]:.2f}", "") for key in ("champion_ap", "challenger_ap")]
    return [*counts, *aps, (difference, ""), (row["verdict"], row["verdict"])]


def _table(heads: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Return the HTML of a table; each cell is a text and the name of its style."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{style}">{html.escape(text)}</td>' if style else f"<td>{html.escape(text)}</td>"
            for text, style in row
        )
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'
