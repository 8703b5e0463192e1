"""Command lines of the project: options that all share, and how results and errors are shown."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from yolo_core.errors import UsageError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line with the project's prefix."""

    def error(self, message: str) -> NoReturn:
        """Raise the complaint as a `UsageError` instead of printing the usage."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def new_parser(prog: str, description: str) -> Parser:
    """Return a parser with the options that every command takes."""
    parser = Parser(prog=f"python -m components {prog}", description=description, allow_abbrev=False)
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="default: params.yaml"
    )
    parser.add_argument(
        "--workspace", default=".", metavar="URI", help="folder (default: here) or s3://BUCKET/PREFIX"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the params, such as train.epochs=3; may be repeated; "
        "several at once: '{train.epochs: 3, train.seed: 1}'",
    )
    parser.add_argument("--json", action="store_true", help="make the last line of stdout a JSON result")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def say(line: str) -> None:
    """Write one line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Write an error to stderr."""
    sys.stderr.write(f"error: {message}\n")


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Show a result: one JSON line, or a line per entry."""
    if as_json:
        say(json.dumps(result, default=str))
        return
    for line in _lines(result, ""):
        say(line)


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if value is None or value in ([], {}, ()):
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, float):
            lines.append(f"{indent}{key}: {value:.6g}")
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return lines


def unexpected(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Show an error that nobody foresaw in one line; an `sys.excepthook`."""
    text = " ".join(str(error).split())
    complain(f"{kind.__name__}: {text[:300]}; run again with --debug for the traceback")
