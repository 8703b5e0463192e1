"""Tables of the study's pages that a click or a key sorts, and the page of the compare stage."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from components.pages import build_page, data_url, list_facts

STYLE = """\
  h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
  table.sortable th, table.sortable td { text-align: right; white-space: nowrap; }
  th button { background: none; color: inherit; border: 0; padding: 0; font: inherit; cursor: pointer; }
  th button:focus-visible { outline: 2px solid var(--accent); }
  th[aria-sort=ascending] button::after { content: " ▲"; }
  th[aria-sort=descending] button::after { content: " ▼"; }
  table.sortable td:first-child, table.sortable th:first-child { text-align: left; }
  tr.best td { background: var(--good); }
"""
_BODY = Template("""\
$facts
<img alt="Accuracy over milliseconds per image" src="$plot">
<p>Click a heading to sort. Accuracies are fractions of 1, times milliseconds per image (medians).
map and map50 are the built-in evaluation's, coco_ap and coco_ap50 the official one's.
Each variant's best size is green.</p>
$table
$more""")
SORT = """\
  const value = (row, column) => row.cells[column].dataset.value;
  const number = text => text === "" ? -Infinity : Number(text);
  const compare = (x, y) => isNaN(number(x)) || isNaN(number(y))
    ? x.localeCompare(y, "en", {numeric: true}) : number(x) === number(y) ? 0 : number(x) - number(y);
  document.querySelectorAll("table.sortable").forEach(table => {
    const heads = [...table.querySelectorAll("th")];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const sign = head.ariaSort === "descending" ? 1 : -1;
      heads.forEach(other => other.ariaSort = null);
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      const rows = [...table.tBodies[0].rows].sort(
        (a, b) => sign * compare(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    }));
  });
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows (``shown``), what it is sorted by (``value``; "" comes last) and its CSS class."""

    shown: str
    value: Any
    kind: str = ""


def sortable(heads: Sequence[str], rows: Iterable[Sequence[Cell]], marked: Iterable[int] = ()) -> str:
    """Return the HTML of a table whose headings are buttons that sort it; rows ``marked`` are green."""
    chosen = set(marked)
    head = "".join(f'<th scope="col"><button type="button">{_escape(text)}</button></th>' for text in heads)
    body = "\n".join(_row(row, index in chosen) for index, row in enumerate(rows))
    return (
        f'<div class="wide" tabindex="0">\n<table class="sortable">\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def page(
    head: tuple[str, Mapping[str, Any]],
    plot: Path,
    table: tuple[Sequence[Mapping[str, Any]], Iterable[int]],
    more: tuple[str, str] = ("", ""),
) -> str:
    """Return the HTML of the compare stage's page.

    Args:
        head: its heading, and what was measured on what, name to value.
        plot: the PNG to embed.
        table: the rows, of which the first one's keys are the headings, and the indices of those to mark.
        more: style and HTML of what comes below.
    """
    (title, facts), (rows, best), (style, below) = head, table, more
    cells = [[Cell(text(value), value) for value in row.values()] for row in rows]
    body = _BODY.substitute(
        facts=list_facts(facts),
        plot=data_url(plot.read_bytes(), "png"),
        table=sortable(list(rows[0]), cells, best),
        more=below,
    )
    return build_page(title, body, style=style or STYLE, script=SORT)


def text(value: Any) -> str:
    """Return a value of the table for people: four significant digits, thousands apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _row(row: Sequence[Cell], is_best: bool) -> str:
    cells = "".join(
        f'<td data-value="{_escape(cell.value)}"{_kind(cell)}>{_escape(cell.shown)}</td>' for cell in row
    )
    return f'<tr class="best">{cells}</tr>' if is_best else f"<tr>{cells}</tr>"


def _kind(cell: Cell) -> str:
    return f' class="{cell.kind}"' if cell.kind else ""


def _escape(value: Any) -> str:
    return html.escape(str(value))
