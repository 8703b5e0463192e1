"""Print what the pipeline made: a row per variant, and how to look further. `make demo` ends with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = ("variant", "epochs", "test mAP@.5", "test mAP@.5:.95", "ms/image", "exports", "registered")
HINTS = """
look at the runs   make ui, then http://127.0.0.1:5000
reports            reports/study.html, reports/export/{variant}.html, reports/validation/data_docs/index.html
ship it            .venv/bin/python -m components promote --model {model} --approve-by YOU
"""


def rows(workspace: Path) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each registered variant, in the order of `HEADER`."""
    for receipt in sorted((workspace / "registry").glob("*.json")):
        registered, variant = _read(receipt), receipt.stem
        train = _read(workspace / "reports" / "train" / f"{variant}.json")
        study = _read(workspace / "reports" / "study" / f"{variant}.json")
        exports = workspace / "exports" / variant
        test = train.get("test") or {}
        yield (
            variant,
            str(train.get("epochs", "-")),
            _number(test.get("map50"), 3),
            _number(test.get("map"), 3),
            _number(_milliseconds(study), 1),
            ", ".join(sorted(path.name for path in exports.iterdir() if path.suffix != ".json")),
            f"{registered['name']} version {registered['version']}",
        )


def table(lines: list[tuple[str, ...]]) -> str:
    """Return the lines as columns under `HEADER`."""
    everything = [HEADER, *lines]
    widths = [max(len(line[column]) for line in everything) for column in range(len(HEADER))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in everything)


def main(argv: list[str]) -> int:
    """Print the summary of a workspace (default: here); return 1 when nothing is registered in it."""
    workspace = Path(argv[0]) if argv else Path()
    found = list(rows(workspace))
    if not found:
        print(
            f"error: nothing is registered in {workspace.resolve()}; run `dvc repro` first", file=sys.stderr
        )
        return 1
    print(table(found))
    print(HINTS.format(model=found[0][-1].split()[0], variant=found[0][0]))
    return 0


def _milliseconds(study: dict[str, Any]) -> float | None:
    """Return the whole time per image at the study's best size."""
    best = study.get("best", {}).get("image_size")
    for point in study.get("points", []):
        if point["image_size"] == best:
            return sum(float(point[f"{part}_ms"]) for part in ("preprocess", "inference", "nms"))
    return None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
