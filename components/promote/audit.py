"""The record of who moved a model's champion, when, from what to what, and why.

An entry is a tag of the registered model, ``audit.000001`` and so on. All entries together are also the
artifact ``audit.jsonl`` of a run in an experiment of their own, one run per model, which is there after a
version or the whole model was deleted. Nothing of this is ever deleted here, and an entry that is complete is
never written again. MLflow itself keeps nobody with the right to write from it, so every entry holds the
digest of the one before: a changed or missing entry shows.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from components.tracking.runs import experiment_id, find_or_create
from yolo_core.errors import DataError

PREFIX = "audit."
FILE = "audit.jsonl"
TAG_MODEL = "audit.model"
Action = Literal["promote", "rollback"]
_WIDTH = 6  # digits of a number in a tag's name, so that names sort


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One move of the champion.

    Attributes:
        number: counted from 1.
        model: name of the registered model.
        action: promote or rollback.
        at: time in UTC, ISO 8601.
        who: decided.
        before: version that was champion; None: there was none.
        after: version that is champion from then on.
        previous: version that a rollback would return to from then on; None: none.
        reason: as given by who decided; may be empty.
        verdict: of the gates: PASS; of a rollback empty, as none are asked.
        evidence: "sha256:..." of the gates' report, which lies beside the record under ``report``.
        report: folder of the report among the artifacts of the record's run; empty for none.
        model_digest, dataset_digest: of the weights that became champion and the data they were measured on.
        copied_to: version of another registered model that is a copy, as NAME/VERSION; empty: none.
        parent: digest of the entry before; empty for the first.
        complete: whether the aliases were moved; an entry is written before that.
    """

    number: int
    model: str
    action: Action
    at: str
    who: str
    before: str | None
    after: str
    previous: str | None = None
    reason: str = ""
    verdict: str = ""
    evidence: str = ""
    report: str = ""
    model_digest: str = ""
    dataset_digest: str = ""
    copied_to: str = ""
    parent: str = ""
    complete: bool = False

    @property
    def digest(self) -> str:
        """Of all that the entry says: the next one holds it."""
        return f"sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"

    @property
    def text(self) -> str:
        """The entry as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def key(self) -> str:
        """Name of its tag."""
        return f"{PREFIX}{self.number:0{_WIDTH}d}"


def read_entry(text: str, place: str) -> Entry:
    """Read what `Entry.text` wrote; `DataError` names the place of what is something else."""
    try:
        found = json.loads(text)
        return Entry(**{item.name: found[item.name] for item in fields(Entry)})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place} is no entry of the record ({type(error).__name__} {error})") from None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The record of one model, by number; ``faults`` say what is missing or was changed."""

    entries: tuple[Entry, ...]
    faults: tuple[str, ...]

    @property
    def last(self) -> Entry | None:
        """The newest entry, complete or not."""
        return self.entries[-1] if self.entries else None

    @property
    def pending(self) -> Entry | None:
        """The entry of a move that was interrupted, if the newest is one."""
        return None if self.last is None or self.last.complete else self.last


class Audit:
    """The record's two places in MLflow, for one registered model."""

    def __init__(self, client: Any, experiment: str, model: str) -> None:
        """Take a client, the name of the record's experiment and that of the registered model."""
        self._client, self._experiment, self._model = client, experiment, model

    def read(self, tags: Mapping[str, str]) -> Record:
        """Return all entries: from the registered model's tags (none, if it is gone) and from the artifact.

        Raises:
            DataError: an entry is no JSON of an entry.
        """
        kept = [read_entry(line, f"{FILE} line {row}") for row, line in enumerate(self._lines(), 1)]
        found = {entry.number: entry for entry in kept}
        marked = {
            entry.number: entry
            for entry in (read_entry(text, key) for key, text in tags.items() if key.startswith(PREFIX))
        }
        differing = [
            number
            for number, one in marked.items()
            if one.complete and number in found and found[number].complete and found[number] != one
        ]
        faults: list[str] = [f"entry {number} differs between its tag and {FILE}" for number in differing]
        found |= {number: one for number, one in marked.items() if number not in differing}
        entries = tuple(found[number] for number in sorted(found))
        return Record(entries=entries, faults=(*faults, *_breaks(entries)))

    def write(self, entry: Entry, record: Record) -> None:
        """Put an entry into both places: a new one, or the pending one again."""
        entries = [one for one in record.entries if one.number != entry.number] + [entry]
        # The tag last: an entry counts as complete only where both places say so.
        self._client.log_text(self.run_id(), "".join(f"{one.text}\n" for one in entries), FILE)
        self._client.set_registered_model_tag(self._model, entry.key, entry.text)

    def keep(self, folder: Path, place: str) -> None:
        """Copy the files of a folder beside the record, into the folder ``place``."""
        self._client.log_artifacts(self.run_id(), str(folder), place)

    def run_id(self) -> str:
        """Return the record's run, which is made if there is none."""
        experiment = experiment_id(self._client, self._experiment, str(self._client.tracking_uri))
        return find_or_create(self._client, experiment, f"audit {self._model}", {TAG_MODEL: self._model}, {})

    def _lines(self) -> list[str]:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            return []
        query = f"tags.`{TAG_MODEL}` = '{self._model}'"
        runs = self._client.search_runs([found.experiment_id], query, order_by=["start_time ASC"])
        for run in runs[:1]:
            if any(item.path == FILE for item in self._client.list_artifacts(run.info.run_id)):
                with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
                    local = self._client.download_artifacts(run.info.run_id, FILE, scratch)
                    return Path(local).read_text(encoding="utf-8").splitlines()
        return []


def _breaks(entries: Sequence[Entry]) -> list[str]:
    """Say where the chain of digests is broken."""
    faults: list[str] = []
    for number, entry in enumerate(entries, 1):
        before = entries[number - 2] if number > 1 else None
        if entry.number != number:
            return [*faults, f"entry {number} is missing"]
        if entry.parent != (before.digest if before else ""):
            faults.append(f"entry {number - 1} is not what it was when entry {number} was written")
    return faults
