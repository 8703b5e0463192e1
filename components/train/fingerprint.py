"""What the result of a training depends on: settings, data, where it starts from, and code."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolo_core.digest import record_of
from yolo_core.engine.identity import deciding_settings
from yolo_core.engine.settings import TrainSettings

_START = "yolo_core.engine.train"
_PACKAGE = "yolo_core"
_APART = frozenset(
    f"{_PACKAGE}.{name}"
    for name in (
        "errors",
        "digest",
        "files",
        "engine.checkpoint",  # has a format number of its own, as have states
        "engine.states",
        "engine.writer",
        "engine.identity",
        "engine.clock",
    )
)
"""Modules that a training uses but that do not decide what it computes."""


def identity(settings: TrainSettings, dataset_digest: str) -> dict[str, Any]:
    """Return all that decides the result as JSON values: not threads, workers, places or times of saving."""
    start = settings.pretrained
    return {
        "dataset": dataset_digest,
        "code": training_code_digest(),
        "settings": deciding_settings(settings),
        "pretrained": None if start is None else record_of(start).sha256,
    }


def fingerprint(what: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity, 64 hex digits."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@cache
def training_code_digest() -> str:
    """Return a digest of the code that computes a training: 16 hex digits.

    It is of the syntax trees of `yolo_core.engine.train` and of all that this imports from its package,
    however far, without what cannot change a result: comments, layout, docstrings, what is raised, and the
    modules that only store and describe.
    """
    total = hashlib.sha256()
    for name, source in sorted(_modules().items()):
        total.update(f"{name}\0{code_text(source)}\0".encode())
    return total.hexdigest()[:16]


def code_text(source: str) -> str:
    """Return what a module's code says; equal for two that differ only in words."""
    return "".join(_said(ast.parse(source)))


def _said(node: ast.AST) -> Iterator[str]:
    """Walk a syntax tree by hand: `ast.dump` changes between versions of Python."""
    yield f"({type(node).__name__}"
    for name, value in ast.iter_fields(node):
        if value is None or value == [] or (isinstance(node, ast.Raise) and name in ("exc", "cause")):
            continue
        items = value if isinstance(value, list) else [value]
        if name == "body" and isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            items = items[1:]
        yield f" {name}="
        for item in items:
            if isinstance(item, ast.AST):
                yield from _said(item)
            else:
                yield f"{item!r},"
    yield ")"


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _modules() -> dict[str, str]:
    """Return the source of every module that decides, by name."""
    found: dict[str, str] = {}
    waiting = [_START]
    while waiting:
        name = waiting.pop()
        if name in found or name in _APART:
            continue
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None  # it was imported from
        found[name] = Path(spec.origin).read_text(encoding="utf-8")
        waiting += _imported(found[name])
    return found


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == _PACKAGE and _is_module(name))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module, so this is a name in it
        return False
