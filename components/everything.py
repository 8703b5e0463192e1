"""``python -m components all``: every stage in order, one process each, in any workspace.

DVC does more (it skips what has not changed) but only in a repository. This needs neither: it is
how a second dataset is tried in a workspace of its own. Its runs go to the MLflow store of the folder
it is started in, so that one `make ui` shows them all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.cli import complain, new_parser, say
from components.runner import Options, load_params
from components.workspace import S3_SCHEME
from pipelines.stage import Stage, in_order
from pipelines.stages import STAGES
from yolo_core.errors import UsageError


def run_all(argv: Sequence[str]) -> int:
    """Run the whole pipeline and return the exit code of the first stage that fails, or 0."""
    parser = new_parser("all", "Run every stage in order, each in a process of its own.")
    parser.add_argument("--run-id", help="id of the pipeline run; stages of one run share it")
    options = parser.parse_args(argv)
    params = load_params(Options.of(options))
    shared = ["--params", str(options.params), "--workspace", options.workspace]
    shared += [word for override in options.overrides for word in ("--set", override)]
    shared += ["--run-id", options.run_id] if options.run_id else []
    shared += ["--debug"] if options.debug else []
    if not options.workspace.startswith(S3_SCHEME):
        Path(options.workspace).mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    environment.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    for stage, variant in _jobs(params.get("variants")):
        words = stage.command(variant)[1:]
        say(f"== {' '.join(words[2:])}")
        code = subprocess.run([sys.executable, *words, *shared], env=environment, check=False).returncode
        if code:
            complain(f"stage {stage.name} ended with exit code {code}; the stages after it did not run")
            return code
    return 0


def _jobs(variants: Any) -> Iterator[tuple[Stage, str | None]]:
    if not isinstance(variants, list) or not variants:
        raise UsageError("params: variants must list at least one model variant, such as yolov5n")
    for stage in in_order(STAGES):
        for variant in variants if stage.foreach else [None]:
            yield stage, variant
