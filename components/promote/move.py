"""Moving the champion: the one place that changes aliases, so that nothing can be half done for good.

The steps, in an order that lets a later attempt finish what an earlier one left: the entry is written, not
yet complete; ``champion`` is moved, which is the moment that counts; ``previous`` follows, then the copy, if
one is asked for; the entry is completed. All of it happens in a turn (`components.promote.turn`), after a
check that the champion is the one that the decision was made against.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.promote.audit import Action, Audit, Entry, Record
from components.promote.registry import CHALLENGER, CHAMPION, PREVIOUS, RegisteredModel, State, asking
from components.promote.turn import Turn, take_turn
from yolo_core.errors import GateError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A move that somebody decided on.

    Attributes:
        action: promote or rollback.
        before: version that was champion when it was decided; None: there was none.
        after: version to become champion.
        previous: what the alias previous is to name from then on; None: nothing.
        who, reason: for the record.
        verdict, evidence: of the gates, and the digest of their report; empty for a rollback.
        report: folder with the report, to be kept with the record; None: there is none.
        copy_to: registered model that gets a copy, too; empty: none.
    """

    action: Action
    before: str | None
    after: str
    previous: str | None
    who: str
    reason: str
    verdict: str = ""
    evidence: str = ""
    report: Path | None = None
    copy_to: str = ""


@dataclass(frozen=True, kw_only=True)
class Mover:
    """Moves the champion of one registered model, and keeps its record."""

    model: RegisteredModel
    audit: Audit

    def read(self, state: State | None = None) -> Record:
        """Return the record as it is now; ``state`` saves asking for it."""
        found = state or self.model.state()
        with asking(self.model.client):
            return self.audit.read(found.tags if found else {})

    def move(self, wish: Wish) -> Entry:
        """Do what was decided and return its entry in the record.

        Raises:
            GateError: the champion is no longer the one that it was decided against; nothing was changed.
            UnreachableError: MLflow does not answer; the same command finishes what was begun.
        """
        tags = self.model.version(wish.after).tags
        with asking(self.model.client), take_turn(self.model.client, self.model.name, _log.warning) as turn:
            state = self.model.must_be()
            self._check_champion(state, wish)
            entry = self._begin(wish, self.audit.read(state.tags), tags)
            turn.check()
            self.model.alias(CHAMPION, wish.after)
            return self._finish(entry, turn)

    def resume(self, state: State) -> Entry | None:
        """Finish a move that was interrupted after the champion had changed; None if there is none."""
        pending = self.read(state).pending
        if pending is None or state.champion != pending.after or pending.before == pending.after:
            return None
        with asking(self.model.client), take_turn(self.model.client, self.model.name, _log.warning) as turn:
            now = self.model.must_be()
            pending = self.audit.read(now.tags).pending  # another process may have been quicker
            if pending is None or now.champion != pending.after:
                return None
            _log.warning("finishing the %s of version %s that was interrupted", pending.action, pending.after)
            return self._finish(pending, turn)

    def _check_champion(self, state: State, wish: Wish) -> None:
        if state.champion == wish.before:
            return
        raise GateError(
            f"the champion of {self.model.name} changed meanwhile from version {wish.before or 'none'} to "
            f"{state.champion or 'none'}; nothing was changed, look at `history` and decide again"
        )

    def _begin(self, wish: Wish, record: Record, tags: Mapping[str, str]) -> Entry:
        """Write the entry, not yet complete; one that an attempt before this left is replaced."""
        done = [entry for entry in record.entries if entry is not record.pending]
        number = done[-1].number + 1 if done else 1
        place = f"{number:06d}" if wish.report else ""
        entry = Entry(
            number=number,
            model=self.model.name,
            action=wish.action,
            at=now(),
            who=wish.who,
            before=wish.before,
            after=wish.after,
            previous=wish.previous,
            reason=wish.reason,
            verdict=wish.verdict,
            evidence=wish.evidence,
            report=place,
            model_digest=tags.get("model.digest", ""),
            dataset_digest=tags.get("dataset.digest", ""),
            copied_to=wish.copy_to,
            parent=done[-1].digest if done else "",
        )
        if wish.report:
            self.audit.keep(wish.report, place)
        self.audit.write(entry, record)
        return entry

    def _finish(self, entry: Entry, turn: Turn) -> Entry:
        """Do what follows once the champion has changed; every step may be repeated."""
        turn.check()
        self.model.alias(PREVIOUS, entry.previous)
        self.model.tag_version(entry.after, _tags(entry))
        if entry.action == "rollback" and entry.before is not None and entry.before in self.model.versions():
            self.model.tag_version(entry.before, {"rollback.by": entry.who, "rollback.at": entry.at})
        if entry.copied_to:
            entry = replace(entry, copied_to=self._copy(entry, turn))
        entry = replace(entry, complete=True)
        state = self.model.must_be()
        self.audit.write(entry, self.audit.read(state.tags))
        if state.aliases.get(CHALLENGER) == entry.after:
            self.model.alias(CHALLENGER, None)
        return entry

    def _copy(self, entry: Entry, turn: Turn) -> str:
        """Make the version that became champion the champion of another model, too; return NAME/VERSION."""
        target = RegisteredModel(client=self.model.client, name=entry.copied_to.partition("/")[0])
        source = f"models:/{self.model.name}/{entry.after}"
        copies: list[Any] = []
        if target.state() is not None:
            copies = self.model.client.search_model_versions(f"name = '{target.name}'", max_results=10_000)
        found = [str(copy.version) for copy in copies if copy.source == source]
        turn.check()
        if found:
            number = max(found, key=int)
        else:
            with redirect_stderr(io.StringIO()):  # MLflow's remarks
                number = str(self.model.client.copy_model_version(source, target.name).version)
        before = target.must_be().champion
        if before != number:
            target.alias(PREVIOUS, before)
            target.alias(CHAMPION, number)
        return f"{target.name}/{number}"


def now() -> str:
    """Return the time in UTC as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _tags(entry: Entry) -> dict[str, str]:
    """Return the tags of the version that became champion."""
    if entry.action == "rollback":
        return {"rollback.restored_by": entry.who, "rollback.restored_at": entry.at}
    return {
        "promotion.approved_by": entry.who,
        "promotion.at": entry.at,
        "promotion.reason": entry.reason,
        "promotion.verdict": entry.verdict,
        "promotion.evidence": entry.evidence,
        "promotion.over": entry.before or "none",
        "promotion.entry": str(entry.number),
    }
