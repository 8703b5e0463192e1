"""``python -m components NAME``: run a stage of the pipeline, or promote, rollback, predict.

Exit codes: 0 done; 1 a gate or the data said no; 2 wrong usage or configuration; 3 a server, store
or cluster is out of reach; 130 or 143 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from components.cli import Parser, complain, new_parser, say, show, unexpected
from components.runner import Options, load_params, resolve, run_stage, stage_request
from components.workspace import local_workspace
from pipelines.stages import STAGES
from yolo_core.errors import UsageError, YoloError

STAGE_HELP = {
    "dataset": "materialise one version of the dataset",
    "validate": "check the dataset; block on failure",
    "train": "train one variant",
    "study": "mAP and speed of one variant over image sizes",
    "compare": "one table and plot over all variants",
    "export": "export one variant and prove its parity",
    "register": "register one variant in MLflow as challenger",
}
COMMANDS = {
    "all": ("components.everything:run_all", "run every stage in order"),
    "compare-models": (
        "components.study.compare.command:compare_models",
        "runs, registered versions or checkpoints side by side, with intervals",
    ),
    "search": ("components.train.search.command:search", "search for hyperparameters of one variant"),
    "promote": ("components.promote.promote:promote", "make a challenger the champion, if the gates pass"),
    "lineage": ("components.promote.lineage:lineage", "where a registered version comes from"),
    "run-open": ("components.tracking.command:run_open", "open the pipeline's run in MLflow until run-close"),
    "run-close": ("components.tracking.command:run_close", "end the pipeline's run in MLflow"),
    "rollback": ("components.promote.rollback:rollback", "make the champion before the champion again"),
    "history": ("components.promote.history:history", "who made what the champion, when and why"),
    "val": ("components.study.val.command:val", "measure any model on a split: table, pictures, one page"),
    "speed": ("components.study.speed:speed", "time a model: milliseconds per image, part by part"),
    "study-all": ("components.study.study_all:study_all", "study several models; one table and plot"),
    "predict": ("components.predict.command:predict", "draw a model's detections on images"),
}
_SIGTERM_CODE = 143


class Terminated(SystemExit):
    """The process was asked to end; a `SystemExit`, so that nothing on the way up takes it for an error."""


def main(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; errors go to stderr in one or two lines."""
    debug = "--debug" in argv
    if not debug:
        sys.excepthook = unexpected
    signal.signal(signal.SIGTERM, _terminated)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for package in ("components", "yolo_core"):
        logging.getLogger(package).setLevel(logging.INFO)
    if not debug:
        # Libraries warn their developers; users get what the stages log.
        logging.captureWarnings(True)
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        return _dispatch(list(argv))
    except YoloError as error:
        if debug:
            traceback.print_exc()
        complain(str(error))
        if "--json" in argv:
            say(json.dumps({"error": str(error), "exit_code": error.exit_code, **error.about}))
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except Terminated:
        complain("interrupted by a termination signal")
        return _SIGTERM_CODE


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        say(_overview())
        return 0 if argv else UsageError.exit_code
    name, rest = argv[0], argv[1:]
    if name in COMMANDS:
        return int(resolve(COMMANDS[name][0])(rest))
    stages = {stage.name: stage for stage in STAGES}
    if name not in stages:
        raise UsageError(
            f"unknown stage or command {name!r}; choose one of {', '.join([*stages, *COMMANDS])}"
        )
    return _run_stage_command(name, rest)


def _run_stage_command(name: str, rest: list[str]) -> int:
    stage = next(stage for stage in STAGES if stage.name == name)
    options = _stage_parser(name).parse_args(rest)
    for flag, act in (("preview", _preview), ("diff", _diff), ("fix", _fix), ("dry_run", _dry_run)):
        if getattr(options, flag, None) is not None:
            return act(options)
    result = run_stage(stage, Options.of(options))
    show(result, as_json=options.json)
    return 0


def _stage_parser(name: str) -> Parser:
    parser = new_parser(name, f"{STAGE_HELP[name]}.")
    parser.add_argument("--variant", help="model variant, for stages that run per variant")
    parser.add_argument("--run-id", help="id of the pipeline run; stages of one run share it")
    if name == "train":
        parser.add_argument(
            "--dry-run",
            action="store_true",
            default=None,
            help="only show the plan: model, batch, steps, workers, recipe, and what goes where",
        )
    if name == "dataset":
        parser.add_argument(
            "--preview",
            type=Path,
            metavar="OUT.png",
            help="only draw the dataset that is there, and to OUT-training.png what training makes of it",
        )
        parser.add_argument(
            "--fix",
            nargs="?",
            const="",
            metavar="NEW_FOLDER",
            help="only write a cleaned version of the dataset that is there to a new folder "
            "(default: data/dataset-fixed in the workspace)",
        )
        parser.add_argument(
            "--diff",
            nargs=2,
            type=Path,
            metavar=("OLD", "NEW"),
            help="only list what images, boxes and classes changed from one version's folder to another's",
        )
    return parser


def _dataset_folder(workspace: str) -> Path:
    folder = local_workspace(workspace).path("data/dataset")
    if not folder.is_dir():
        raise UsageError(f"no dataset at {folder}; run `python -m components dataset` first")
    return folder


def _diff(options: argparse.Namespace) -> int:
    found = resolve("components.dataset.diff:diff")(*options.diff)
    return _tell(found, "components.dataset.diff:describe", options)


def _tell(found: dict[str, Any], describe: str, options: argparse.Namespace) -> int:
    """Show what was found, as JSON or in the lines that the function ``describe`` makes of it."""
    if options.json:
        show(found, as_json=True)
    else:
        for line in resolve(describe)(found):
            say(line)
    return 0


def _fix(options: argparse.Namespace) -> int:
    folder = _dataset_folder(options.workspace)
    target = Path(options.fix) if options.fix else folder.with_name("dataset-fixed")
    result = resolve("components.dataset.fix:fix")(folder, target)
    show(result, as_json=options.json)
    return 0


def _dry_run(options: argparse.Namespace) -> int:
    workspace = local_workspace(options.workspace)
    stage = next(stage for stage in STAGES if stage.name == "train")
    plan = resolve("components.train.dry_run:dry_run")(stage_request(stage, Options.of(options)), workspace)
    return _tell(plan, "components.train.dry_run:describe", options)


def _preview(options: argparse.Namespace) -> int:
    folder = _dataset_folder(options.workspace)
    params = load_params(Options.of(options))
    variant = options.variant or next(iter(params.get("variants") or ["yolov5n"]))
    for page in resolve("components.preview:draw_previews")(folder, options.preview, params, variant):
        say(f"preview: {page}")
    return 0


def _overview() -> str:
    names = [f"  {name:16}{text}" for name, text in STAGE_HELP.items()]
    names += ["", "commands:"] + [f"  {name:16}{text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m components",
        usage="python -m components NAME [options]; NAME --help lists them",
        description="Run one stage of the pipeline, or a command on its results.",
        epilog="\n".join(["stages:", *names, "", __doc__.split("\n\n", 1)[1].strip()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.format_help().rstrip()


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(_SIGTERM_CODE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
