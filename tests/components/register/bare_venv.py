"""A virtual environment that holds what a list of requirements resolves to, and nothing else.

It is made in a second from links into the environment of the tests, where installing torch takes minutes:
what the requirements do not lead to cannot be imported there.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_bare_venv(folder: Path, requirements: Iterable[str]) -> Path:
    """Make the environment; returns its folder of programs. A requirement that is not met fails."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    found = resolve(requirements)
    place = next(folder.glob("lib/python*/site-packages"))
    link(found, place)
    programs = folder / "bin"
    for dist in found:
        for entry in dist.entry_points.select(group="console_scripts"):
            program, name = programs / entry.name, entry.attr.partition(".")[0]
            lines = (f"#!{programs / 'python'}", "import sys", f"from {entry.module} import {name}")
            program.write_text("\n".join((*lines, f"sys.exit({entry.attr}())", "")), encoding="utf-8")
            program.chmod(0o755)
    return programs


def resolve(requirements: Iterable[str]) -> list[Distribution]:
    """Return the installed distributions that requirements lead to, as their metadata say."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            raise AssertionError(f"{wanted} is not installed") from None
        assert wanted.specifier.contains(dist.version.split("+")[0], prereleases=True), (wanted, dist.version)
        found[name] = dist
        for chosen in ("", *wanted.extras):
            if (name, chosen) not in seen:
                seen.add((name, chosen))
                waiting += [(Requirement(line), chosen) for line in dist.requires or ()]
    return list(found.values())


def link(found: Iterable[Distribution], place: Path) -> None:
    """Link the files of distributions into a folder; a package that several share file by file."""
    owners = Counter(top for dist in Distribution.discover() for top in _tops(dist))
    for dist in found:
        tops = _tops(dist)
        for top in (top for top in tops if owners[top] == 1):
            (place / top).symlink_to(str(dist.locate_file(top)))
        for path in (path for path in dist.files or () if owners[path.parts[0]] > 1):
            target = place / path
            if path.parts[0] in tops and not target.is_symlink():  # some files are of two distributions
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(str(dist.locate_file(path)))


def _tops(dist: Distribution) -> set[str]:
    """Return the top-level files and folders of a distribution in site-packages."""
    return {path.parts[0] for path in dist.files or ()} - {"..", "__pycache__"}
