"""``history``: print the record of a registered model's champions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from components.cli import complain, say, show
from components.promote.desk import model_parser, open_desk
from yolo_core.errors import UsageError

if TYPE_CHECKING:
    from components.promote.audit import Entry

_HEADS = ("#", "when (UTC)", "who", "what", "from", "to", "verdict", "reason")


def history(argv: Sequence[str]) -> int:
    """Print who moved the champion when, from what to what and why; return the exit code."""
    options = model_parser("history", "Print the record of a model's champions.").parse_args(argv)
    desk = open_desk(options)
    state = desk.model.state()
    record = desk.mover.read(state)
    if state is None and not record.entries:
        desk.model.must_be()  # raises, and names the models there are
    there = desk.model.versions()
    if options.json:
        entries = [{**asdict(entry), "deleted": entry.after not in there} for entry in record.entries]
        shown = {
            "model": desk.model.name,
            "champion": state.champion if state else None,
            "entries": entries,
            "faults": list(record.faults),
        }
        show(shown, as_json=True)
        return 0
    if not record.entries:
        raise UsageError(f"model {desk.model.name} has no record; nothing was promoted by this project yet")
    for line in table([_row(entry, there) for entry in record.entries]):
        say(line)
    for fault in record.faults:
        complain(f"the record was changed: {fault}")
    return 0


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows under their headings, as lines whose columns stand below each other."""
    everything = [_HEADS, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(_HEADS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in everything
    ]


def _row(entry: Entry, there: set[str]) -> tuple[str, ...]:
    after = entry.after if entry.after in there else f"{entry.after} (deleted)"
    what = entry.action if entry.complete else f"{entry.action}, interrupted"
    if entry.copied_to:
        what += f", copied to {entry.copied_to}"
    when = entry.at[:19].replace("T", " ")
    return (
        str(entry.number),
        when,
        entry.who,
        what,
        entry.before or "-",
        after,
        entry.verdict or "-",
        entry.reason or "-",
    )
