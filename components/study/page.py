"""The comparison as one page that needs nothing else: plot, table, and a few lines that sort it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

_TEMPLATE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
  body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
  img { max-width: 100%; height: auto; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
  dt { color: #666; }
  dd { margin: 0; overflow-wrap: anywhere; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
  th { background: #f4f4f4; }
  th button { background: none; border: 0; padding: 0; font: inherit; cursor: pointer; }
  th button:focus-visible { outline: 2px solid #1f77b4; }
  th[aria-sort=ascending] button::after { content: " ▲"; }
  th[aria-sort=descending] button::after { content: " ▼"; }
  td:first-child, th:first-child { text-align: left; }
  tr.best td { background: #eaf4ea; }
</style>
</head>
<body>
<h1>$title</h1>
<dl>$facts</dl>
<img alt="Accuracy over milliseconds per image" src="data:image/png;base64,$plot">
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
</div>
<script>
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
</script>
</body>
</html>
""")


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
    return _TEMPLATE.substitute(
        title=html.escape(title),
        facts="".join(f"<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>" for key, value in facts.items()),
        plot=base64.b64encode(plot.read_bytes()).decode("ascii"),
        head="".join(f'<th><button type="button">{_escape(key)}</button></th>' for key in rows[0]),
        body="\n".join(_row(row, index in marked) for index, row in enumerate(rows)),
    )


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
