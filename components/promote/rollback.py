"""``rollback``: make the champion before the champion again; no gate is asked, as it is the way out."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.cli import say, show
from components.promote.desk import Desk, check_decision, decision_parser, open_desk
from yolo_core.errors import GateError, UsageError

if TYPE_CHECKING:
    from components.promote.audit import Entry, Record
    from components.promote.registry import State


def rollback(argv: Sequence[str]) -> int:
    """Return to an earlier champion; return the exit code."""
    parser = decision_parser("rollback", "Make the previous champion the champion again.")
    parser.add_argument("--to", metavar="VERSION", help="an earlier champion (default: the previous one)")
    options = parser.parse_args(argv)
    check_decision(options)
    return _roll_back(open_desk(options), options)


def _roll_back(desk: Desk, options: Namespace) -> int:
    """Finish what an earlier call left, or say that it was done; else do it."""
    state = desk.model.must_be()
    finished = None if options.dry_run else desk.mover.resume(state)
    if finished is not None:
        return _say(finished, options, desk)
    record = desk.mover.read(state)
    done = _done_before(record, state, options)
    if done is not None:
        return _say(done, options, desk)
    desk.check_expected(state, options.expect_champion)
    target = _target(desk, state, record, options.to)
    if options.dry_run:
        shown = {
            "model": desk.model.name,
            "dry_run": True,
            "champion": target,
            "champion_before": state.champion,
        }
        show(shown, as_json=options.json)
        return 0
    return _say(_move(desk, state, record, target, options), options, desk)


def _move(desk: Desk, state: State, record: Record, target: str, options: Namespace) -> Entry:
    from components.promote.move import Wish

    ready = desk.model.version(target)
    if ready.status != "READY":
        raise GateError(f"version {target} of {desk.model.name} is {ready.status}, not READY")
    wish = Wish(
        action="rollback",
        before=state.champion,
        after=target,
        previous=_below(desk, record, target),
        who=options.approve_by,
        reason=options.reason,
        copy_to=desk.config.production_name or "",
    )
    return desk.mover.move(wish)


def champions(record: Record) -> list[str]:
    """Return the versions that one may go back to, the latest last; the champion itself is the last.

    A promotion lays a version on the pile, a rollback takes off all above the one that it restores.
    """
    pile: list[str] = []
    for entry in record.entries:
        if not entry.complete:
            continue
        if entry.action == "rollback":
            pile = pile[: pile.index(entry.after) + 1] if entry.after in pile else [entry.after]
            continue
        if entry.before is not None and (not pile or pile[-1] != entry.before):
            pile.append(entry.before)  # somebody moved the alias by other means
        pile = [version for version in pile if version != entry.after] + [entry.after]
    return pile


def _target(desk: Desk, state: State, record: Record, asked: str | None) -> str:
    """Return the version to go back to; `UsageError` says why there is none."""
    name, champion = desk.model.name, state.champion
    if champion is None:
        raise UsageError(f"model {name} has no champion to roll back from")
    earlier = [version for version in champions(record) if version != champion]
    previous = state.aliases.get("previous")
    there = desk.model.versions()
    left = [version for version in reversed(earlier) if version in there]
    if asked is not None:
        if asked == champion:
            raise UsageError(f"version {asked} of {name} is the champion already")
        if asked not in (*left, previous):
            raise UsageError(
                f"version {asked} of {name} was never champion, or was deleted; "
                f"one can return to {', '.join(left) or 'none'}"
            )
        return asked
    if previous is not None and previous != champion:
        return previous
    if earlier and earlier[-1] not in there:
        others = (
            f"return to one before it with --to: {', '.join(left)}" if left else "promote another version"
        )
        raise UsageError(
            f"version {earlier[-1]}, the champion of {name} before {champion}, was deleted; {others}"
        )
    raise UsageError(f"model {name} has no previous champion to return to; champion is version {champion}")


def _below(desk: Desk, record: Record, target: str) -> str | None:
    """Return the champion before the one that is restored, for the next rollback; None if there is none."""
    pile = champions(record)
    there = desk.model.versions()
    under = pile[: pile.index(target)] if target in pile else []
    return next((version for version in reversed(under) if version in there), None)


def _done_before(record: Record, state: State, options: Namespace) -> Entry | None:
    """Return the entry of the same rollback, if it is the latest: a retry must not go back one further."""
    last = record.last
    same = (
        last is not None
        and last.action == "rollback"
        and last.before == options.expect_champion
        and last.after == state.champion
    )
    return last if same else None


def _say(entry: Entry, options: Namespace, desk: Desk) -> int:
    left = desk.model.must_be().aliases.get("previous")
    if options.json:
        shown = {
            "model": entry.model,
            "action": entry.action,
            "champion": entry.after,
            "champion_before": entry.before,
            "previous": left,
            "by": entry.who,
            "at": entry.at,
            "reason": entry.reason,
            "copied_to": entry.copied_to,
            "entry": entry.number,
        }
        show(shown, as_json=True)
        return 0
    say(f"version {entry.after} of {entry.model} is champion again instead of version {entry.before}")
    say(f"decided by {entry.who} at {entry.at}; entry {entry.number} of the record")
    further = (
        f"a further rollback would return to version {left}" if left else "there is no champion before it"
    )
    say(further)
    return 0
