"""The project's own source, read as syntax trees: nothing is imported to be judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = ("yolo_core", "components", "pipelines", "dags", "scripts")


@dataclass(frozen=True)
class Import:
    """One imported name: the full dotted path, and whether it runs when the module is imported."""

    name: str
    line: int
    at_import: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, path relative to the repository, tree and imports."""

    name: str
    path: str
    text: str
    tree: ast.Module
    imports: tuple[Import, ...]


@pytest.fixture(scope="session")
def modules(repo: Path) -> dict[str, Module]:
    """Every module of the project's own packages, by its dotted name."""
    found = [
        read_module(path, repo) for package in PACKAGES for path in sorted((repo / package).rglob("*.py"))
    ]
    assert len(found) > 50
    return {module.name: module for module in found}


@pytest.fixture(scope="session")
def loads(modules: dict[str, Module]) -> dict[str, set[str]]:
    """What each of our modules imports while it is imported: modules of ours and outside packages."""
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        targets = {resolve(item.name, modules) for item in module.imports if item.at_import}
        parents = {module.name.rpartition(".")[0]} & modules.keys()  # importing a.b imports a first
        graph[module.name] = (targets | parents) - {module.name}
    return graph


def read_module(path: Path, repo: Path) -> Module:
    """Parse one file."""
    relative = path.relative_to(repo)
    parts = list(relative.with_suffix("").parts)
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(relative))
    return Module(name, str(relative), text, tree, tuple(find_imports(tree)))


def find_imports(node: ast.AST, *, at_import: bool = True, typing_only: bool = False) -> Iterator[Import]:
    """Yield what a tree imports; `from a import b` counts as a.b, which may be a module or a name in one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_import and not typing_only, typing_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                yield Import(name, child.lineno, at_import and not typing_only, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from find_imports(child, at_import=at_import, typing_only=True)
        else:
            inside = at_import and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from find_imports(child, at_import=inside, typing_only=typing_only)


def resolve(name: str, modules: dict[str, Module]) -> str:
    """Return the module of ours that an imported name lives in, else the outside package's name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in modules:
            return ".".join(parts[:length])
    return parts[0]
