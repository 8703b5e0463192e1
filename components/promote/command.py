"""``promote`` and ``rollback``: move the aliases of a registered model, with a record of who and when."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.cli import Parser, complain, new_parser, show
from components.config import load_section
from components.promote.config import PromoteConfig
from components.promote.gate import Candidate, Decision, decide
from components.runner import Options, load_params
from components.store import TrackingConfig
from components.tracking import ALIAS_CHAMPION
from yolo_core.errors import GateError, UsageError

CHAMPION, CHALLENGER, PREVIOUS = ALIAS_CHAMPION, "challenger", "previous"


def promote(argv: Sequence[str]) -> int:
    """Make a challenger the champion if the gate agrees; return the exit code (1: the gate said no)."""
    parser = _parser("promote", "Make a version the champion of its model, if the gate agrees.")
    parser.add_argument("--version", help="version to promote (default: the challenger)")
    parser.add_argument("--dry-run", action="store_true", help="say what the gate says; change nothing")
    parser.add_argument("--force", action="store_true", help="accept a version measured on other data")
    options = parser.parse_args(argv)
    params = load_params(Options.of(options))
    config = load_section(params, "promote", PromoteConfig)
    model = _open_model(options, params)
    version = options.version or model.aliases.get(CHALLENGER)
    if version is None:
        raise UsageError(f"model {model.name} has no challenger; name a --version or register one")
    challenger = Candidate.from_tags(version, model.tags_of(version))
    champion_version = model.aliases.get(CHAMPION)
    result: dict[str, Any] = {"model": model.name, "version": version, "champion_before": champion_version}
    if champion_version == version:
        show(
            {**result, "promoted": False, "reason": f"version {version} is the champion already"},
            as_json=options.json,
        )
        return 0
    champion = None
    if champion_version is not None:
        champion = Candidate.from_tags(champion_version, model.tags_of(champion_version))
    decision = decide(challenger, champion, config, force=options.force)
    done = decision.passed and not options.dry_run
    if done:
        model.promote(version, decision, config.metric, options.approve_by)
    show(
        {**result, "passed": decision.passed, "promoted": done, "reason": decision.reason},
        as_json=options.json,
    )
    if not decision.passed:
        complain(f"the gate says no: {decision.reason}")
        return GateError.exit_code
    return 0


def rollback(argv: Sequence[str]) -> int:
    """Swap champion and previous; return the exit code."""
    options = _parser("rollback", "Make the previous champion the champion again.").parse_args(argv)
    params = load_params(Options.of(options))
    model = _open_model(options, params)
    champion, previous = model.aliases.get(CHAMPION), model.aliases.get(PREVIOUS)
    if champion is None:
        raise UsageError(f"model {model.name} has no champion to roll back from")
    if previous is None or previous == champion:
        raise UsageError(
            f"model {model.name} has no previous champion to return to; champion is version {champion}"
        )
    model.tags_of(previous)  # must still be there
    model.rollback(champion, previous, options.approve_by)
    show({"model": model.name, CHAMPION: previous, PREVIOUS: champion}, as_json=options.json)
    return 0


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model of the registry, with its aliases as they were when it was opened."""

    client: Any
    uri: str
    name: str
    aliases: dict[str, str]

    def tags_of(self, version: str) -> dict[str, str]:
        """Return a version's tags, or raise `UsageError` if there is no such version."""
        from components.store import mlflow_errors

        with mlflow_errors(self.uri, missing=f"model {self.name} has no version {version!r}"):
            return dict(self.client.get_model_version(self.name, version).tags)

    def promote(self, version: str, decision: Decision, metric: str, who: str) -> None:
        """Point champion at a version and previous at the one before it; record it.

        The order makes a retry after an interruption end in the same state.
        """
        from components.store import mlflow_errors

        before = self.aliases.get(CHAMPION)
        now = _now()
        with mlflow_errors(self.uri):
            if before is not None:
                self.client.set_registered_model_alias(self.name, PREVIOUS, before)
            tags = {"approved_by": who, "at": now, "metric": metric, "value": f"{decision.value:.6f}"}
            for key, value in {**tags, "reason": decision.reason}.items():
                self.client.set_model_version_tag(self.name, version, f"promotion.{key}", value)
            self._record(now, f"{who} promoted version {version} over {before or 'none'}: {decision.reason}")
            self.client.set_registered_model_alias(self.name, CHAMPION, version)
            if self.aliases.get(CHALLENGER) == version:
                self.client.delete_registered_model_alias(self.name, CHALLENGER)

    def rollback(self, champion: str, previous: str, who: str) -> None:
        """Swap the two aliases and record it."""
        from components.store import mlflow_errors

        now = _now()
        with mlflow_errors(self.uri):
            self._record(now, f"{who} rolled back from version {champion} to {previous}")
            self.client.set_registered_model_alias(self.name, CHAMPION, previous)
            self.client.set_registered_model_alias(self.name, PREVIOUS, champion)
            for key, value in {"by": who, "at": now}.items():
                self.client.set_model_version_tag(self.name, champion, f"rollback.{key}", value)

    def _record(self, when: str, text: str) -> None:
        """Add an entry to the model's history: tags named by time, which nobody overwrites."""
        self.client.set_registered_model_tag(self.name, f"history.{when}", text)


def _parser(name: str, description: str) -> Parser:
    parser = new_parser(name, description)
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="registered model, such as detector-yolov5n"
    )
    parser.add_argument(
        "--approve-by",
        default=os.environ.get("USER") or "unknown",
        metavar="WHO",
        help="who decides, for the record (default: $USER)",
    )
    return parser


def _open_model(options: Namespace, params: dict[str, Any]) -> RegisteredModel:
    from components.store import connect, mlflow_errors

    tracking = load_section(params, "tracking", TrackingConfig)
    client = connect(tracking, Path(options.workspace).resolve(), create=False)
    uri = str(client.tracking_uri)
    with mlflow_errors(uri):
        known = {model.name: model for model in client.search_registered_models(max_results=1000)}
    if options.model not in known:
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(f"no registered model {options.model!r} in MLflow at {uri}; known: {names}")
    aliases = {alias: str(version) for alias, version in known[options.model].aliases.items()}
    return RegisteredModel(client=client, uri=uri, name=options.model, aliases=aliases)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
