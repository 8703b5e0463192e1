"""``compare-models``: runs, registered versions, checkpoints and exports side by side, with intervals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.cli import new_parser, say, show
from components.config import load_section
from components.runner import Options, load_params, orchestrator, pipeline_run_id
from components.store import TrackingConfig
from components.study.config import CompareConfig, StudyConfig
from yolo_core.errors import UsageError

STAGE = "compare-models"
_FOLDER = "comparison"


def compare_models(argv: Sequence[str]) -> int:
    """Compare models, write and log the comparison, and return the exit code."""
    options = _parse(argv)
    if len(options.models) < 2:
        raise UsageError(f"{STAGE} needs two models at least; `python -m components val MODEL` measures one")
    asked = Options.of(options)
    params = load_params(asked)
    tracking: TrackingConfig = load_section(params, "tracking", TrackingConfig)
    config: CompareConfig = load_section(params, "compare", CompareConfig)
    root = Path(options.workspace).resolve()
    if not root.is_dir():
        raise UsageError(f"no workspace at {root}; name a folder")
    from components.study.compare.contrast import contrast
    from components.study.compare.entrants import Entrants
    from components.study.compare.files import text
    from yolo_core.metrics.bootstrap import BootstrapSettings

    terms = _terms(options, params, tracking, root)
    draws = BootstrapSettings(resamples=config.resamples, level=config.level, seed=config.seed)
    result = contrast(Entrants(terms=terms).all(options.models), draws)
    folder = options.out or root / "reports" / _FOLDER
    found = _write(result, folder)
    run = _log(found, folder, tracking, root, pipeline_run_id(asked, params))
    if not options.json:
        say(text(result))
        say(f"written to {folder}; logged to MLflow run {run}")
    else:
        show({**found, "folder": str(folder), "mlflow_run_id": run}, as_json=True)
    return 0


def _terms(options: argparse.Namespace, params: dict[str, Any], tracking: TrackingConfig, root: Path) -> Any:
    from components.study.compare.entrants import Terms

    settings: StudyConfig = load_section(params, "study", StudyConfig)
    folders = tuple(options.data or [root / "data" / "dataset"])
    return Terms(
        folders=folders,
        split=options.split or settings.split,
        image_size=options.image_size,
        across=options.across_datasets,
        settings=settings,
        speeds=tuple(options.speed),
        tracking=tracking,
        root=root,
    )


def _write(result: Any, folder: Path) -> dict[str, Any]:
    """Write comparison.json, .csv and .html to a folder, which is made; return what the JSON holds."""
    from components.study.compare.files import document, table
    from components.study.compare.page import contrast_page

    labels = [standing.contestant.label for standing in result.standings]
    found = document(result)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (folder / "comparison.csv").write_text(table(result), encoding="utf-8")
    page = contrast_page(result, f"{' and '.join(labels[1:])} beside {labels[0]}")
    (folder / "comparison.html").write_text(page, encoding="utf-8")
    return found


def _log(found: dict[str, Any], folder: Path, tracking: TrackingConfig, root: Path, run_id: str) -> str:
    """Log the files to a run of the comparison and to its parent; return the run's id."""
    from components.tracking import RunIdentity, open_run

    identity = RunIdentity(run_id=run_id, stage=STAGE, variant=None, orchestrator=orchestrator())
    with open_run(tracking, root, identity) as tracker:
        tracker.set_tags({"compared": [model["source"] for model in found["models"]]})
        for number, model in enumerate(found["models"], 1):
            metrics = {
                f"model_{number}.ap": model["ap"]["value"],
                f"model_{number}.ap50": model["ap50"]["value"],
            }
            if model["difference"]:
                metrics[f"model_{number}.ap_difference"] = model["difference"]["ap"]["value"]
            tracker.log_metrics(metrics)
        for one in (tracker, tracker.parent):
            for suffix in ("html", "json", "csv"):
                one.log_artifact(folder / f"comparison.{suffix}", _FOLDER)
        return str(tracker.run_id)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = new_parser(
        STAGE, "Compare models on the same images: APs with intervals, differences, speed, verdicts."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="MLflow run of study or val (its id), models:/NAME@ALIAS, models:/NAME/VERSION, a folder of "
        "val, a file of COCO results, a checkpoint or an export; the others are compared with the first",
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="dataset (default: data/dataset in the workspace); may be repeated with --across-datasets",
    )
    parser.add_argument("--split", help="of the dataset (default: study.split)")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="default: as stored, else as each was trained"
    )
    parser.add_argument(
        "--across-datasets",
        action="store_true",
        help="also compare what was measured on different images; intervals are unpaired then",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: reports/comparison in the workspace"
    )
    parser.add_argument(
        "--speed",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what `speed MODEL --json` wrote of one of the models; may be repeated (default: from studies)",
    )
    parser.add_argument("--run-id", help="id of the pipeline run to log to")
    return parser.parse_args(argv)
