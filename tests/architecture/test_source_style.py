"""What no file of the project does, whoever writes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import pytest

FILE_LINES = 400
FUNCTION_LINES = 80
PARAMETERS = 6  # five is the rule, six the limit
# Faces of the command line; the rest speaks through loggers, results and errors.
PRINTERS = ("scripts.",)
BROAD_EXCEPT: dict[str, int] = {}
# Words of the places where this was written, not of the project. Split, or this file would hold them.
PRIVATE = [r"(?<![\w.])/" + "work/(main|shared)", r"/" + r"opt/(pypi|wheels)", "files.python" + "hosted"]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_sizes(modules: dict[str, Any]) -> None:
    too_big = []
    for module in modules.values():
        if (lines := module.text.count("\n")) >= FILE_LINES:
            too_big.append(f"{module.path}: {lines} lines")
        for function in functions(module.tree):
            if (length := (function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES:
                too_big.append(f"{module.path}:{function.lineno} {function.name}: {length} lines")
            given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            if (count := sum(item.arg not in ("self", "cls") for item in given)) > PARAMETERS:
                too_big.append(f"{module.path}:{function.lineno} {function.name}: {count} parameters")
    assert not too_big


def test_no_print_outside_command_line_faces(modules: dict[str, Any]) -> None:
    printing = [
        f"{module.path}:{call.lineno}"
        for module in modules.values()
        if not module.name.startswith(PRINTERS)
        for call, name in calls(module.tree)
        if name == "print"
    ]
    assert not printing


def test_no_path_edits_and_no_star_imports(modules: dict[str, Any]) -> None:
    edits = [
        f"{m.path}:{c.lineno} {name}"
        for m in modules.values()
        for c, name in calls(m.tree)
        if name.startswith(("sys.path.", "site.addsitedir"))
    ]
    stars = [f"{m.path}:{i.line}" for m in modules.values() for i in m.imports if i.name.endswith(".*")]
    assert not edits + stars


def test_no_broad_except(modules: dict[str, Any]) -> None:
    broad: dict[str, int] = {}
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                if not caught or re.search(r"\b(Base)?Exception\b", caught):
                    broad[module.path] = broad.get(module.path, 0) + 1
    assert broad == BROAD_EXCEPT


def test_no_shell(modules: dict[str, Any]) -> None:
    """Commands are lists of arguments: no text of a form or a file can become a command."""
    shells = [
        f"{module.path}:{call.lineno} {name}"
        for module in modules.values()
        for call, name in calls(module.tree)
        if name in ("os.system", "os.popen", "subprocess.getoutput")
        or any(key.arg == "shell" and ast.unparse(key.value) != "False" for key in call.keywords)
    ]
    assert not shells


def test_no_pickle_is_read(modules: dict[str, Any]) -> None:
    """Pickled files run code when they are read; checkpoints go through the restricted reader only."""
    readers = {
        module.path
        for module in modules.values()
        for _, name in calls(module.tree)
        if name in ("pickle.load", "pickle.loads", "joblib.load", "pickle.Unpickler")
    }
    assert readers == set()
    unsafe = [
        f"{module.path}:{call.lineno}"
        for module in modules.values()
        for call, name in calls(module.tree)
        if name == "torch.load"
        and not any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in call.keywords)
    ]
    assert not unsafe


def test_everything_public_is_documented(modules: dict[str, Any]) -> None:
    bare = []
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            bare.append(module.path)
        for node in module.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                bare += [] if ast.get_docstring(node) else [f"{module.path}:{node.lineno} {node.name}"]
    assert not bare


def test_everything_is_typed(modules: dict[str, Any]) -> None:
    untyped = [
        f"{module.path}:{function.lineno} {function.name}"
        for module in modules.values()
        for function in functions(module.tree)
        if function.returns is None
    ]
    assert not untyped


def test_no_marks_of_unfinished_work(modules: dict[str, Any]) -> None:
    marks = re.compile(r"#.*\b(TO" + r"DO|FIX" + r"ME|XXX|HACK)\b")
    assert not [module.path for module in modules.values() if marks.search(module.text)]


@pytest.mark.parametrize("pattern", PRIVATE)
def test_no_machine_paths(pattern: str, modules: dict[str, Any], repo: Any) -> None:
    others = [repo / name for name in ("Makefile", "dvc.yaml", "params.yaml", "pyproject.toml", "README.md")]
    others += sorted((repo / "requirements").iterdir()) + sorted((repo / "infra").rglob("*.*"))
    texts = {module.path: module.text for module in modules.values()}
    texts |= {
        str(path.relative_to(repo)): path.read_text(encoding="utf-8") for path in others if path.is_file()
    }
    assert not [path for path, text in texts.items() if re.search(pattern, text)]
