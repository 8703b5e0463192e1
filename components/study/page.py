"""The comparison as one page that needs nothing else: plot, table, and a few lines that sort it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from components.pages import build_page, data_url, list_facts

_STYLE = """\
  th, td { text-align: right; white-space: nowrap; }
  th button { background: none; color: inherit; border: 0; padding: 0; font: inherit; cursor: pointer; }
  th button:focus-visible { outline: 2px solid var(--accent); }
  th[aria-sort=ascending] button::after { content: " ▲"; }
  th[aria-sort=descending] button::after { content: " ▼"; }
  td:first-child, th:first-child { text-align: left; }
  tr.best td { background: var(--good); }
"""
_BODY = Template("""\
$facts
<img alt="Accuracy over milliseconds per image" src="$plot">
<p>Click a heading to sort. Accuracies are fractions of 1, times milliseconds per image (medians).
map and map50 are the built-in evaluation's, coco_ap and coco_ap50 the official one's.
Each variant's best size is green.</p>
<div class="wide">
<table>
<thead><tr>$head</tr></thead>
<tbody>
$body
</tbody>
</table>
</div>""")
_SORT = """\
  const table = document.querySelector("table"), heads = [...table.querySelectorAll("th")];
  const value = (row, column) => row.cells[column].dataset.value;
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const sign = head.ariaSort === "descending" ? 1 : -1;
    heads.forEach(other => other.ariaSort = null);
    head.ariaSort = sign > 0 ? "ascending" : "descending";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y);
    });
    table.tBodies[0].append(...rows);
  }));
"""


def page(
    title: str,
    facts: Mapping[str, Any],
    plot: Path,
    rows: Sequence[Mapping[str, Any]],
    best: Iterable[int],
) -> str:
    """Return the page's HTML.

    Args:
        title: its heading.
        facts: what was measured on what, name to value.
        plot: the PNG to embed.
        rows: the table; the keys of the first are its headings.
        best: indices of rows to mark.
    """
    marked = set(best)
    body = _BODY.substitute(
        facts=list_facts(facts),
        plot=data_url(plot.read_bytes(), "png"),
        head="".join(f'<th><button type="button">{_escape(key)}</button></th>' for key in rows[0]),
        body="\n".join(_row(row, index in marked) for index, row in enumerate(rows)),
    )
    return build_page(title, body, style=_STYLE, script=_SORT)


def text(value: Any) -> str:
    """Return a value of the table for people: four significant digits, thousands apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _row(row: Mapping[str, Any], is_best: bool) -> str:
    cells = "".join(
        f'<td data-value="{_escape(value)}">{_escape(text(value))}</td>' for value in row.values()
    )
    return f'<tr class="best">{cells}</tr>' if is_best else f"<tr>{cells}</tr>"


def _escape(value: Any) -> str:
    return html.escape(str(value))
