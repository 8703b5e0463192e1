"""``promote``: ask the gates about a challenger, and make it the champion if they pass."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cli import complain, say, show
from components.promote.config import check_name
from components.promote.desk import Desk, check_decision, decision_parser, open_desk
from yolo_core.errors import GateError, UsageError

if TYPE_CHECKING:
    from components.promote.audit import Entry
    from components.promote.gates import Judgement
    from components.promote.registry import State

_FOLDER = "gates"  # among the artifacts of a version's run


def promote(argv: Sequence[str]) -> int:
    """Make a challenger the champion if the gates pass; return the exit code (1: they do not)."""
    options = _parse(argv)
    job = _Promotion(desk=open_desk(options), options=options)
    state = job.desk.model.must_be()
    finished = None if options.dry_run else job.desk.mover.resume(state)
    if finished is not None:
        state = job.desk.model.must_be()
    version = options.version or state.aliases.get("challenger")
    if version is None or version == state.champion:
        return job.nothing_to_do(version, state, finished)
    job.desk.check_expected(state, options.expect_champion)
    return job.run(version, state)


@dataclass(frozen=True, kw_only=True)
class _Promotion:
    """One call of the command."""

    desk: Desk
    options: Namespace

    def nothing_to_do(self, version: str | None, state: State, finished: Entry | None) -> int:
        """Say that the version is champion already; `UsageError` if none is named and none was promoted."""
        model, options = self.desk.model, self.options
        last = finished or self.desk.mover.read(state).last
        ours = last is not None and last.action == "promote" and last.after == state.champion
        if version is None and not (ours and last is not None and last.who == options.approve_by):
            raise UsageError(f"model {model.name} has no challenger; name a --version or register one")
        if version is not None and not options.dry_run and state.aliases.get("challenger") == version:
            model.alias("challenger", None)
        by = f", promoted by {last.who} at {last.at}" if ours and last is not None else ""
        reason = f"version {state.champion} is the champion already{by}"
        shown = {
            "model": model.name,
            "version": state.champion,
            "champion_before": state.champion,
            "verdict": last.verdict if ours and last is not None else None,
            "promoted": False,
            "reason": reason,
            "entry": last.number if ours and last is not None else None,
        }
        show(shown if options.json else {"model": model.name, "reason": reason}, as_json=options.json)
        return 0

    def run(self, version: str, state: State) -> int:
        """Ask the gates, put their report on the version, and promote it if they pass."""
        from components.promote.candidates import Bench

        bench = Bench(
            model=self.desk.model, dataset=self.desk.root / "data" / "dataset", config=self.desk.config
        )
        judgement = bench.judge(version, state.champion)
        entry, report = None, None
        with tempfile.TemporaryDirectory(prefix="gates-") as scratch:
            folder = self._write(judgement, Path(scratch))
            if not self.options.dry_run:
                report = self._put_on_version(judgement, folder)
                if judgement.verdict == "PASS":
                    entry = self._move(judgement, folder, state)
        self._show(judgement, report, entry)
        if judgement.verdict == "PASS":
            return 0
        complain(f"the gates say {judgement.verdict}: {judgement.reason}")
        return GateError.exit_code

    def _write(self, judgement: Judgement, scratch: Path) -> Path:
        """Write the report, also to where --out says; return its folder."""
        from components.promote.page import write_report

        if self.options.out is not None:
            write_report(judgement, self.options.out)
        write_report(judgement, scratch)
        return scratch

    def _put_on_version(self, judgement: Judgement, folder: Path) -> str | None:
        """Log the report to the version's run and tag the version; return the report's address."""
        from components.promote.move import now
        from components.promote.registry import asking

        model, place = self.desk.model, f"{_FOLDER}/over-{judgement.champion or 'none'}"
        run_id = model.version(judgement.version).run_id
        address = None
        if run_id:
            with asking(model.client):
                model.client.log_artifacts(run_id, str(folder), place)
            address = f"runs:/{run_id}/{place}"
        tags = {
            "gate.verdict": judgement.verdict,
            "gate.champion": judgement.champion or "none",
            "gate.at": now(),
            "gate.stopped_by": ", ".join(ruling.rule for ruling in judgement.stoppers) or "none",
            "gate.evidence": judgement.digest,
            "gate.report": address or "none",
        }
        model.tag_version(judgement.version, tags)
        return address

    def _move(self, judgement: Judgement, folder: Path, state: State) -> Entry:
        from components.promote.move import Wish

        return self.desk.mover.move(
            Wish(
                action="promote",
                before=state.champion,
                after=judgement.version,
                previous=state.champion or state.aliases.get("previous"),
                who=self.options.approve_by,
                reason=self.options.reason,
                verdict=judgement.verdict,
                evidence=judgement.digest,
                report=folder,
                copy_to=self._copy_to or "",
            )
        )

    @property
    def _copy_to(self) -> str | None:
        chosen: str | None = self.options.copy_to or self.desk.config.production_name
        return chosen

    def _show(self, judgement: Judgement, report: str | None, entry: Entry | None) -> None:
        would = self._would(judgement) if self.options.dry_run and judgement.verdict == "PASS" else []
        if not self.options.json:
            _tell(judgement, would, report, entry)
            return
        shown: dict[str, Any] = {
            **judgement.document,
            "champion_before": judgement.champion,
            "passed": judgement.verdict == "PASS",
            "promoted": entry is not None,
            "dry_run": self.options.dry_run,
            "would": would,
            "report": report,
            "evidence": judgement.digest,
            "entry": entry.number if entry else None,
            "copied_to": entry.copied_to if entry else None,
        }
        show(shown, as_json=True)

    def _would(self, judgement: Judgement) -> list[str]:
        """Say what a run without --dry-run would do."""
        version = judgement.version
        steps = [f"set alias champion to version {version}"]
        if judgement.champion:
            steps.append(f"set alias previous to version {judgement.champion}")
        if self._copy_to:
            steps.append(f"copy version {version} to {self._copy_to} and make it the champion there")
        return [*steps, f"write to the record: approved by {self.options.approve_by}"]


def _tell(judgement: Judgement, would: Sequence[str], report: str | None, entry: Entry | None) -> None:
    """Say for people what the gates found and what was done."""
    from components.promote.page import lines

    for line in lines(judgement):
        say(line)
    if judgement.verdict == "PASS":
        say(f"{judgement.verdict}: {judgement.reason}")
    for step in would:
        say(f"would {step}")
    if entry is not None:
        copied = f", copied to {entry.copied_to}" if entry.copied_to else ""
        say(f"version {entry.after} is champion, approved by {entry.who}{copied}; entry {entry.number}")
    if report is not None:
        say(f"report: {report}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = decision_parser("promote", "Make a version the champion of its model, if the gates pass.")
    parser.add_argument("--version", help="version to promote (default: the challenger)")
    parser.add_argument(
        "--copy-to",
        metavar="NAME",
        help="also copy the version to this registered model and make it the champion there "
        "(default: promote.production_name)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write the report, gates.html and gates.json, to a folder",
    )
    options = parser.parse_args(argv)
    check_decision(options)
    if options.copy_to is not None:
        try:
            check_name(options.copy_to)
        except ValueError as error:
            raise UsageError(f"--copy-to: {error}") from None
    return options
