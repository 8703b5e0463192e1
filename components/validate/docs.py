"""Great Expectations' Data Docs, made to work without a network.

Its pages load styles, scripts and a logo from a dozen hosts. All of that goes; a small style sheet of
our own and plain HTML stay, so that the pages read well offline, in MLflow's viewer or in an archive.
The first page, whose tables only its scripts fill, is written anew.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from string import Template

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem; }
nav ul, nav ol { list-style: none; padding: 0; } nav a { text-decoration: none; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { border: 1px solid #ccd; padding: .3rem .6rem; }
td, th { text-align: left; vertical-align: top; } a { color: #0b57d0; }
.alert { background: #eef1f6; border-radius: .4rem; margin: 1rem 0; padding: .6rem 1rem; }
.badge { background: #eef1f6; border-radius: .3rem; padding: 0 .3rem; }
.modal, .btn-group, .popover, .cooltip .top, footer { display: none; }
.card:has(.btn-group), a[data-toggle=collapse] { display: none; } /* what only scripts make work */
.fa-check-circle::before { content: "\\2714"; color: #188038; }
.fa-times::before { content: "\\2718"; color: #c5221f; }
.fa-exclamation-triangle::before { content: "\\26A0"; color: #b06000; }
i { font-style: normal; }
"""
_INDEX = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Data Docs</title>
<style>$style</style>
</head>
<body>
<h1>Data Docs</h1>
<p>What Great Expectations checked of each table.
<a href="../summary.html">The summary</a> says it rule by rule.</p>
<table><thead><tr><th>table</th><th>came out</th><th>expectations</th></tr></thead><tbody>
$rows
</tbody></table>
</body>
</html>
""")
_SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.S | re.I)
# Style sheets, icons and pictures: what is not remote only decorates, or is missing where it is looked for.
_DECORATION = re.compile(r"<(?:link|img|iframe)\b[^>]*>", re.S | re.I)
_FAILED = 'text-danger" aria-hidden="true"></i> Failed'  # the overview's status
_REMOTE_ATTRIBUTE = re.compile(
    r"\s(?:href|src|action)\s*=\s*(?:\"(?:https?:)?//[^\"]*\"|'(?:https?:)?//[^']*')", re.I
)
_REMOTE_URL = re.compile(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)", re.I)
_REMOTE_IMPORT = re.compile(r"@import[^;]*;", re.I)


def make_offline(folder: Path) -> None:
    """Rewrite the Data Docs in ``folder`` so that no page asks another host for anything."""
    for page in folder.rglob("*.html"):
        page.write_text(_rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(folder / "static", ignore_errors=True)  # 4 MB that no page refers to any more
    rows = "\n".join(_row(page, folder) for page in sorted(folder.glob("validations/*/*/*/*.html")))
    (folder / "index.html").write_text(_INDEX.substitute(style=_STYLE, rows=rows), encoding="utf-8")


def _row(page: Path, folder: Path) -> str:
    """Return the index's row for a page of results: of validations/TABLE/RUN/TIME/NAME.html."""
    place, table = page.relative_to(folder).as_posix(), page.parents[2].name
    failed = _FAILED in page.read_text(encoding="utf-8")
    icon, said = ("times", "some failed") if failed else ("check-circle", "all hold")
    result = f'<a href="{place}"><i class="fa-{icon}"></i> {said}</a>'
    return (
        f'<tr><td>{table}</td><td>{result}</td><td><a href="expectations/{table}.html">{table}</a></td></tr>'
    )


def _rewrite(html: str) -> str:
    for pattern in (_SCRIPT, _DECORATION, _REMOTE_ATTRIBUTE, _REMOTE_IMPORT):
        html = pattern.sub("", html)
    html = _REMOTE_URL.sub("none", html)
    return html.replace("</head>", f"<style>{_STYLE}</style>\n</head>", 1)
