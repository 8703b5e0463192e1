"""params.yaml sections to frozen dataclasses, strictly.

A stage's dataclass lives beside the stage. Its fields are the keys of its section: every field
must be given, no other key may be, and each value must have the field's type.
"""

from __future__ import annotations

import copy
import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from yolo_core.errors import UsageError

T = TypeVar("T")


def read_params(path: Path) -> dict[str, Any]:
    """Read a params file, or raise `UsageError` that names it."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no params file at {path}; pass --params PATH") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} must hold sections (dataset:, train:, ...), not {type(loaded).__name__}")
    return loaded


def override(params: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return the params with assignments applied: ``section.key=value``, or ``{section.key: value, ...}``.

    Values are read as YAML. A key must be in the params already, except inside a section that is free or
    below one: those are checked when their stage reads them.

    Raises:
        UsageError: an assignment is malformed or names an unknown key.
    """
    changed = copy.deepcopy(dict(params))
    for assignment in assignments:
        for name, value in _assignments(assignment):
            keys = name.strip().split(".")
            if not all(keys):
                raise UsageError(f"--set {assignment}: write it as section.key=value")
            _assign(changed, keys, value)
    return changed


def _assignments(text: str) -> list[tuple[str, Any]]:
    """Read ``section.key=value``, or a mapping of such, which an orchestrator can give as one parameter."""
    several = text.lstrip().startswith("{")
    name, equals, value = ("", "=", text) if several else text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: write it as section.key=value")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text}: {value!r} is not a YAML value; quote it") from None
    return [(str(key), one) for key, one in read.items()] if several else [(name, read)]


def _assign(params: dict[str, Any], keys: list[str], value: Any) -> None:
    place, where = params, ""
    for depth, key in enumerate(keys):
        # Deeper than section.key may be a free mapping, such as train.overrides.
        if key not in place and depth < 2:
            raise UsageError(f"--set: {where}{key} is not a known key{_suggest(key, list(place))}")
        if depth == len(keys) - 1:
            place[key] = value
            return
        where += f"{key}."
        if not isinstance(place.get(key), dict):
            raise UsageError(
                f"--set: {where.rstrip('.')} is not a section, so {'.'.join(keys)} cannot be set"
            )
        place = place[key]


def load_section(params: Mapping[str, Any], section: str, cls: type[T]) -> T:
    """Build ``cls`` from one section of the params.

    Raises:
        UsageError: a key is unknown, missing or of the wrong type, or the dataclass refuses a
            value; the message names ``section.key``.
    """
    if section not in params:
        raise UsageError(f"params: section {section!r} is missing; it needs {_names(cls)}")
    return _build(params[section], section, cls)


def _build(values: Any, where: str, cls: type[T]) -> T:
    if not isinstance(values, Mapping):
        raise UsageError(f"params: {where} must be a section with keys {_names(cls)}")
    hints = get_type_hints(cls)
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"params: {where}.{key} is not a known key{_suggest(str(key), known)}")
    missing = [key for key in known if key not in values]
    if missing:
        raise UsageError(f"params: {where}.{missing[0]} is missing; add it to the {where} section")
    built = {key: _convert(values[key], f"{where}.{key}", hints[key]) for key in known}
    try:
        return cls(**built)
    except ValueError as error:
        raise UsageError(f"params: {where}: {error}") from None


def _convert(value: Any, where: str, hint: Any) -> Any:
    """Check a YAML value against a type hint; ints become floats and lists tuples where asked."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(value, where, hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, where, hint)
    if origin is Literal:
        if value in get_args(hint):
            return value
        if value is False and "off" in get_args(hint):
            return "off"  # YAML reads a bare off as false
        raise UsageError(f"params: {where} must be {_type_name(hint)}, not {value!r}")
    if origin is tuple:
        if not isinstance(value, list):
            raise UsageError(f"params: {where} must be a list, not {value!r}")
        return tuple(_convert(item, f"{where}[{i}]", get_args(hint)[0]) for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"params: {where} must be a mapping, not {value!r}")
        item_hint = get_args(hint)[1]
        return {str(key): _convert(item, f"{where}.{key}", item_hint) for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:  # bool is an int to isinstance
        raise UsageError(f"params: {where} must be {_type_name(hint)}, not {value!r}")
    return value


def _convert_union(value: Any, where: str, hint: Any) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(value, where, option)
        except UsageError:
            continue
    wanted = " or ".join(_type_name(option) for option in options)
    raise UsageError(f"params: {where} must be {wanted}, not {value!r}")


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _names(cls: type[Any]) -> str:
    return ", ".join(item.name for item in fields(cls))


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys are {', '.join(known)}"
