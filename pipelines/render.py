"""Write the files that are generated from STAGES, or check that they are fresh.

``python -m pipelines.render dvc`` needs only this package; ``kfp`` needs the environment with the kfp SDK.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipelines.settings import load_settings, read_params
from pipelines.stages import STAGES
from pipelines.to_dvc import to_dvc

REPO = Path(__file__).resolve().parents[1]
KFP_FILE = REPO / "infra" / "kfp" / "retrain.yaml"


def render_dvc() -> dict[Path, str]:
    """Return dvc.yaml's text by its path."""
    return {REPO / "dvc.yaml": to_dvc(STAGES)}


def render_kfp() -> dict[Path, str]:
    """Return the compiled KFP pipeline's text by its path, for the variants and settings in params.yaml."""
    from pipelines.to_kfp import compile_kfp

    variants: Any = read_params().get("variants")  # which the compiler checks
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / KFP_FILE.name
        compile_kfp(STAGES, variants, load_settings(), target)
        return {KFP_FILE: target.read_text(encoding="utf-8")}


RENDERERS = {"dvc": render_dvc, "kfp": render_kfp}


def stale(files: dict[Path, str]) -> list[Path]:
    """Return the files on disk that differ from what they should hold."""
    return [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]


def main(argv: list[str]) -> int:
    """Render what is named; with ``--check`` return 1 when a file is stale instead."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.render", description=__doc__)
    parser.add_argument("what", choices=RENDERERS)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is stale")
    options = parser.parse_args(argv)
    try:
        files = RENDERERS[options.what]()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if options.check:
        for path in stale(files):
            sys.stderr.write(f"error: {path.relative_to(REPO)} is stale; run `make render`\n")
        return 1 if stale(files) else 0
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path.relative_to(REPO)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
