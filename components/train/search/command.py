"""The command line of ``python -m components search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from components.cli import new_parser, show
from components.config import load_section
from components.runner import Options, StageRequest, load_params, pipeline_run_id
from components.store import TrackingConfig
from components.train.search.config import SearchConfig
from components.train.search.work import search as run_search
from components.workspace import S3_SCHEME, local_workspace
from pipelines.stage import Stage
from pipelines.stages import STAGES
from yolo_core.errors import UsageError
from yolo_core.model.variants import get_variant


def search(argv: Sequence[str]) -> int:
    """Search for hyperparameters of one variant; returns the exit code."""
    parser = new_parser("search", "Search for hyperparameters; the params' section search says which.")
    parser.add_argument("--variant", required=True, help="model variant")
    parser.add_argument("--run-id", help="id of the pipeline run; stages of one run share it")
    given = parser.parse_args(argv)
    if given.workspace.startswith(S3_SCHEME):
        raise UsageError("search works in a local folder; bring the data there and pass it as --workspace")
    options = replace(Options.of(given), variant=get_variant(given.variant).name)
    params = load_params(options)
    train = next(stage for stage in STAGES if stage.name == "train")
    stage = Stage(
        name="search",
        inputs=train.inputs,
        outputs=("reports/search/{variant}",),
        params=("train", "search"),
        code=train.code,
        image=train.image,
        foreach="variants",
    )
    request = StageRequest(
        stage=stage,
        variant=options.variant,
        config=load_section(params, "search", SearchConfig),
        params=params,
        tracking=load_section(params, "tracking", TrackingConfig),
        run_id=pipeline_run_id(options, params),
        work=partial(run_search, params_file=options.params),
    )
    show(request.run_in(local_workspace(options.workspace)), as_json=given.json)
    return 0
