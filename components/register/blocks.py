"""Parts of a document that can be read as Markdown and as a page: texts, facts and tables."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.pages import build_page, list_facts

UNSTATED = "not stated"
_STYLE = """\
  .wide { margin: .8rem 0; }
  pre { background: var(--head); padding: .6rem .8rem; overflow-x: auto; }
"""


@dataclass(frozen=True, slots=True)
class Text:
    """One paragraph; or code, which keeps its lines."""

    text: str
    code: bool = False


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names and values; None shows as "not stated"."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below columns; None shows as "not stated", no rows as that, too."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


Block = Text | Pairs | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


def markdown_of(title: str, sections: Sequence[Section]) -> str:
    """Return a document as Markdown."""
    parts = [f"# {_marked(title)}"]
    for section in sections:
        parts += [f"## {section.title}", *(_markdown(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def html_of(title: str, sections: Sequence[Section]) -> str:
    """Return a document as a page of its own."""
    body = "\n".join(
        f"<h2>{html.escape(section.title)}</h2>\n" + "\n".join(_html(block) for block in section.blocks)
        for section in sections
    )
    return build_page(title, body, style=_STYLE)


def _shown(value: Any) -> str:
    return UNSTATED if value is None or value == "" else str(value)


def _marked(value: Any) -> str:
    """Return a value as Markdown that shows it literally: names come from datasets."""
    text = html.escape(_shown(value), quote=False).replace("\n", " ")
    for sign in "\\`*_[]|":
        text = text.replace(sign, f"\\{sign}")
    return text


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        return f"```python\n{block.text}\n```" if block.code else _marked(block.text)
    if isinstance(block, Pairs):
        return "\n".join(f"- {key}: {_marked(value)}" for key, value in block.values.items())
    if not block.rows:
        return UNSTATED
    head = [block.columns, tuple("---" for _ in block.columns)]
    return "\n".join("| " + " | ".join(_marked(cell) for cell in row) + " |" for row in (*head, *block.rows))


def _html(block: Block) -> str:
    if isinstance(block, Text):
        text = html.escape(block.text)
        return f"<pre>{text}</pre>" if block.code else f"<p>{text}</p>"
    if isinstance(block, Pairs):
        return list_facts({key: _shown(value) for key, value in block.values.items()})
    if not block.rows:
        return f"<p>{UNSTATED}</p>"
    head = "".join(f"<th>{html.escape(column)}</th>" for column in block.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_shown(cell))}</td>" for cell in row) + "</tr>"
        for row in block.rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
