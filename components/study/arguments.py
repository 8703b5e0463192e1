"""Options that the commands for one model share: what is measured, on what, and how it is run."""

from __future__ import annotations

import argparse
from pathlib import Path

from components.study.config import DEVICES, PRECISIONS

SOURCES = (
    "a .pt or .safetensors checkpoint, an exported file or folder, models:/NAME@ALIAS, models:/NAME/VERSION "
    "or runs:/RUN_ID/PATH"
)


def add_model_arguments(parser: argparse.ArgumentParser, *, sources: str = SOURCES) -> None:
    """Let a command take a model, the data and how to run it; ``sources`` says what names a model."""
    parser.add_argument("model", metavar="MODEL", help=sources)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="dataset (default: data/dataset)")
    parser.add_argument("--split", default="val", help="train, val or test (default: val)")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longest side (default: that of the training, or export)",
    )
    parser.add_argument("--format", help="of a registered model or export folder: checkpoint, onnx, ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of checkpoints")
    parser.add_argument("--augment", action="store_true", help="checkpoints: look at each image three times")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
