"""Pages for people that need nothing else: no script, style or picture comes from outside the file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from string import Template
from typing import Any

_TEMPLATE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'$policy">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --ink: #222; --paper: #fff; --quiet: #666; --line: #ddd; --head: #f4f4f4;
    --good: #eaf4ea; --good-ink: #14632a; --bad: #fdecea; --bad-ink: #9b1c12; --accent: #1f77b4; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #ddd; --paper: #16181c; --quiet: #9aa0a6; --line: #3a3f45; --head: #23272d;
      --good: #16351f; --good-ink: #8fd9a4; --bad: #43201c; --bad-ink: #f2a59b; --accent: #6cb2e8; }
  }
  body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
  body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
  img { max-width: 100%; height: auto; }
  dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
  dt { color: var(--quiet); }
  dd { margin: 0; overflow-wrap: anywhere; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
  th, td { text-align: left; vertical-align: top; }
  th { background: var(--head); }
$style</style>
</head>
<body>
<h1>$title</h1>
$body
$script</body>
</html>
""")


def build_page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Return the HTML of a page.

    Args:
        title: its heading, plain text.
        body: HTML below the heading.
        style: rules beside the common ones.
        script: JavaScript; without one the page allows none.
    """
    return _TEMPLATE.substitute(
        title=html.escape(title),
        body=body,
        style=style,
        script=f"<script>\n{script}</script>\n" if script else "",
        policy="; script-src 'unsafe-inline'" if script else "",
    )


def list_facts(facts: Mapping[str, Any]) -> str:
    """Return names and values as the HTML of a list."""
    pairs = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(str(facts[key]))}</dd>" for key in facts)
    return f"<dl>{pairs}</dl>"


def data_url(content: bytes, kind: str) -> str:
    """Return a picture as a URL that holds it; ``kind`` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
