"""What the commands on champions share: options, the registered model, its record."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.cli import Parser, new_parser
from components.config import load_section
from components.promote.config import PromoteConfig
from components.runner import Options, load_params
from components.store import TrackingConfig
from components.workspace import S3_SCHEME
from yolo_core.errors import GateError, UsageError

if TYPE_CHECKING:
    from components.promote.move import Mover
    from components.promote.registry import RegisteredModel, State

NONE = "none"
_LONGEST_NAME, _LONGEST_REASON = 200, 1000  # the record's entries are tags, which hold 5,000 characters


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A command's configuration, and the registered model that it is about."""

    config: PromoteConfig
    root: Path
    model: RegisteredModel
    mover: Mover

    def check_expected(self, state: State, expected: str | None) -> None:
        """Raise `GateError` if the champion is not the one that the caller expects; None expects nothing."""
        if expected is not None and (state.champion or NONE) != expected:
            raise GateError(
                f"the champion of {self.model.name} is version {state.champion or NONE}, not {expected} as "
                "expected; look at `history` and decide again"
            )


def open_desk(options: Namespace) -> Desk:
    """Read the configuration and connect.

    Raises:
        UsageError: the configuration, the name or the store is wrong.
        UnreachableError: MLflow does not answer.
    """
    params = load_params(Options.of(options))
    config: PromoteConfig = load_section(params, "promote", PromoteConfig)
    tracking: TrackingConfig = load_section(params, "tracking", TrackingConfig)
    if options.workspace.startswith(S3_SCHEME):
        raise UsageError("--workspace must be a folder here; bring what is in s3:// to one first")
    root = Path(options.workspace).resolve()
    from components.promote.audit import Audit
    from components.promote.move import Mover
    from components.promote.registry import open_model

    model = open_model(options.model, tracking, root)
    audit = Audit(model.client, config.audit_experiment, model.name)
    return Desk(config=config, root=root, model=model, mover=Mover(model=model, audit=audit))


def model_parser(prog: str, description: str) -> Parser:
    """Return a parser with the option that names the model."""
    parser = new_parser(prog, description)
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="registered model, such as detector-yolov5n"
    )
    return parser


def decision_parser(prog: str, description: str) -> Parser:
    """Return a parser with the options of a command that moves the champion."""
    parser = model_parser(prog, description)
    parser.add_argument(
        "--approve-by",
        default=os.environ.get("USER") or "unknown",
        metavar="WHO",
        help="who decides, for the record (default: $USER)",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    parser.add_argument(
        "--expect-champion",
        metavar="VERSION",
        help=f"do nothing unless this version ({NONE}: no version) is champion now",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and by what verdict; change nothing"
    )
    return parser


def check_decision(options: Namespace) -> None:
    """Refuse texts that no record should hold: empty names, control characters, endless ones."""
    for flag, text, longest in (
        ("--approve-by", options.approve_by, _LONGEST_NAME),
        ("--reason", options.reason, _LONGEST_REASON),
    ):
        if not text.isprintable() or len(text) > longest:
            raise UsageError(f"{flag} must be one line of at most {longest} printable characters")
    if not options.approve_by.strip():
        raise UsageError("--approve-by must name who decides")
    expected = options.expect_champion
    if expected not in (None, NONE) and not (expected.isascii() and expected.isdigit()):
        raise UsageError(f"--expect-champion takes a version's number or {NONE}, not {expected!r}")
