"""What could not be sent to MLflow yet: entries on disk, in the order in which they were logged.

An entry is one JSON file, written whole or not at all, and a folder beside it with the file that it carries.
Both are deleted once it is delivered, so a process that dies at any moment loses nothing. Delivering an entry
twice must do no harm: a death between delivery and deletion repeats it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNSENT = "runs/unsent"
"""Folder of a workspace with a folder per MLflow run that has unsent entries."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something to log.

    Attributes:
        kind: params, metrics, tags, artifact, dataset or status.
        values: JSON-able arguments of the kind.
        time: when it was logged, in milliseconds since 1970. MLflow takes metrics with equal name, step,
            value and time for one and the same, which makes it safe to send one twice.
    """

    kind: str
    values: dict[str, Any]
    time: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


class Outbox:
    """The unsent entries of one run, in ``folder``, which is there only while there are any."""

    def __init__(self, folder: Path) -> None:
        """Continue what an earlier process left there."""
        self.folder = folder

    def __len__(self) -> int:
        """Return how many entries wait."""
        return len(self._paths())

    def put(self, entry: Entry, file: Path | None = None) -> None:
        """Add an entry at the end, with a copy of the file or folder that it carries."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020d}.json"
        if file is not None:
            carried = path.with_suffix("")
            carried.mkdir()
            _copy(file, carried / file.name)
        partial = path.with_suffix(".partial")
        document = {
            "kind": entry.kind,
            "values": entry.values,
            "time": entry.time,
            "file": file.name if file else None,
        }
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)

    def send(self, deliver: Callable[[Entry, Path | None], None]) -> None:
        """Deliver and delete entries, the oldest first; an error of ``deliver`` passes and keeps the rest."""
        for path in self._paths():
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue  # another process sends them, too
            carried = path.with_suffix("")
            file = carried / document["file"] if document["file"] else None
            deliver(Entry(kind=document["kind"], values=document["values"], time=document["time"]), file)
            path.unlink(missing_ok=True)
            shutil.rmtree(carried, ignore_errors=True)
        with suppress(OSError):  # gone, or not empty: more came in
            self.folder.rmdir()

    def summary(self) -> str:
        """Say in words what waits: ``3 x metrics, 1 x artifact``."""
        kinds = [json.loads(path.read_text(encoding="utf-8"))["kind"] for path in self._paths()]
        return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))


def outboxes(root: Path) -> list[Outbox]:
    """Return the outboxes in a workspace; the name of each one's folder is the MLflow run's id."""
    return [Outbox(folder) for folder in sorted((root / UNSENT).glob("*")) if folder.is_dir()]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
