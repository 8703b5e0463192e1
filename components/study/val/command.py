"""``val``: measure any model on a split, and show what there is to see as table, files and one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from components.cli import new_parser, say, show
from components.config import load_section
from components.runner import Options, load_params
from components.store import TrackingConfig
from components.study.arguments import SOURCES, add_model_arguments


def val(argv: Sequence[str]) -> int:
    """Measure a model, write its folder, print its table, and return the exit code."""
    options = _parse(argv)
    params = load_params(Options.of(options))
    from components.study.val.work import run

    result, lines = run(options, load_section(params, "tracking", TrackingConfig))
    if options.json:
        show(result, as_json=True)
    else:
        say("\n".join(lines))
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = new_parser("val", "Measure a model on a split: table, metrics, pictures, and one page.")
    add_model_arguments(parser, sources=f"{SOURCES}; or a .json of COCO results made elsewhere")
    parser.add_argument("--batch-size", type=int, default=1, help="images per call (default: 1)")
    parser.add_argument("--confidence", type=float, default=0.001, help="least score (default: 0.001)")
    parser.add_argument(
        "--iou",
        type=float,
        default=0.65,
        help="overlap above which the weaker goes (default: 0.65)",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/val/MODEL-SPLIT-DIGEST")
    parser.add_argument("--no-track", dest="track", action="store_false", help="log nothing to MLflow")
    return parser.parse_args(argv)
