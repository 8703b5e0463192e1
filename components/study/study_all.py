"""``study-all``: the study of several models in one command, then one table and plot over them.

It is what the release's ``val.py --task study --weights ...`` is. Models are named by variant (their weights
are in the workspace) or by anything that `open_subject` takes, such as a downloaded ``yolov5n6.pt``.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cli import complain, new_parser, say, show
from components.config import load_section
from components.runner import Options, StageRequest, load_params, pipeline_run_id
from components.store import TrackingConfig
from components.study.config import CompareConfig, StudyConfig
from components.workspace import S3_SCHEME, Workspace, local_workspace
from pipelines.stages import STAGES
from yolo_core.errors import UsageError, YoloError
from yolo_core.model.variants import VARIANTS, get_variant

if TYPE_CHECKING:
    from components.study.measure import Bench, Source

_P6 = tuple(name for name in VARIANTS if name.endswith("6"))
_P5 = tuple(name for name in VARIANTS if name not in _P6)
GROUPS = {"p5": _P5, "p6": _P6, "all": (*_P5, *_P6)}


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Which models are studied, how, and where.

    ``models`` is name -> what `open_subject` takes; None: the weights that the workspace has of the variant.
    """

    models: Mapping[str, str | None]
    config: StudyConfig
    compare: CompareConfig
    params: Mapping[str, Any]
    tracking: TrackingConfig
    run_id: str
    workspace: Workspace


def study_all(argv: Sequence[str]) -> int:
    """Study every model that is named; returns the exit code of the first that failed, or 0.

    What fails stops no other model; the table and the plot are then of those that are done.
    """
    options = _parse(argv)
    campaign = _campaign(options)
    failures = _measure(campaign)
    done: list[str] = []
    for name in campaign.models:
        if name in failures:
            continue
        try:
            _study(campaign, name)
            done.append(name)
        except YoloError as error:
            _fail(failures, name, error)
    compared = _compare(campaign, done) if done else {}
    result = {"studied": done, "failed": {name: str(error) for name, error in failures.items()}, **compared}
    show(result, as_json=options.json)
    return next((error.exit_code for error in failures.values()), 0)


def _campaign(options: Namespace) -> Campaign:
    if options.workspace.startswith(S3_SCHEME):
        raise UsageError("study-all works in a folder; on s3:// let an orchestrator run the stage study")
    asked = Options.of(options)
    params = load_params(asked)
    return Campaign(
        models=named_models(options.models or params.get("variants") or []),
        config=load_section(params, "study", StudyConfig),
        compare=load_section(params, "compare", CompareConfig),
        params=params,
        tracking=load_section(params, "tracking", TrackingConfig),
        run_id=pipeline_run_id(asked, params),
        workspace=local_workspace(options.workspace),
    )


def named_models(words: Sequence[str]) -> dict[str, str | None]:
    """Return name -> source of the models; a variant's source is None, its trained weights.

    A file is named by its stem, a registered model by its name; the reports are called so.

    Raises:
        UsageError: there is none, a name is unknown, or two models would have one.
    """
    models: dict[str, str | None] = {}
    for word in words:
        is_model = any(mark in word for mark in (os.sep, ":", ".")) or Path(word).exists()
        named: dict[str, str | None] = (
            {_name(word): word}
            if is_model
            else {get_variant(name).name: None for name in GROUPS.get(word, (word,))}
        )
        for name, source in named.items():
            if name in models:
                raise UsageError(f"two models are called {name}; copy one of the files under another name")
            models[name] = source
    if not models:
        raise UsageError("no models; name variants, p5, p6, all, or paths of checkpoints")
    return models


def _name(source: str) -> str:
    if "://" not in source and ":/" in source:  # models:/NAME@ALIAS, runs:/RUN_ID/PATH
        return source.split(":/", 1)[1].replace("/", "-")
    return Path(source).stem


def _measure(campaign: Campaign) -> dict[str, YoloError]:
    """Measure missing accuracies of all models on Ray, if it is to be; returns what failed, by model."""
    failures: dict[str, YoloError] = {}
    if campaign.config.workers < 2:
        return failures
    from components.study.fan import Task, measure_on_ray, missing_tasks
    from components.study.points import Points

    points = Points(campaign.workspace.path(campaign.config.storage))
    names: dict[Task, str] = {}
    for name in campaign.models:
        try:
            source = _source(campaign, name)
            names.update(dict.fromkeys(missing_tasks(_open(campaign, source), source, points), name))
        except YoloError as error:
            _fail(failures, name, error)
    if names:
        for task, failure in measure_on_ray(list(names), campaign.config, points).items():
            if names[task] not in failures:
                _fail(failures, names[task], failure)
    return failures


def _open(campaign: Campaign, source: Source) -> Bench:
    from components.study.measure import open_bench
    from yolo_core.data.coco import open_dataset

    dataset = open_dataset(campaign.workspace.path("data/dataset"))
    return open_bench(source.open(campaign.config.device), dataset, campaign.config)


def _source(campaign: Campaign, name: str) -> Source:
    from components.study.measure import Source
    from components.study.study import trained_weights

    root, word = campaign.workspace.root, campaign.models[name]
    if word is None:
        word = str(trained_weights(root, name))
    elif Path(word).exists():
        word = str(Path(word).resolve())
    return Source(name=word, tracking=campaign.tracking, root=root)


def _study(campaign: Campaign, name: str) -> None:
    from components.study.study import study_model

    stage = next(stage for stage in STAGES if stage.name == "study")
    source = _source(campaign, name)
    say(f"== study {name}")
    inputs = tuple(path for path in stage.inputs if not path.startswith("models/"))
    StageRequest(
        stage=replace(stage, inputs=inputs),
        variant=name,
        config=campaign.config,
        params=campaign.params,
        tracking=campaign.tracking,
        run_id=campaign.run_id,
        work=partial(study_model, source=source),
    ).run_in(campaign.workspace)


def _compare(campaign: Campaign, names: Sequence[str]) -> dict[str, Any]:
    stage = next(stage for stage in STAGES if stage.name == "compare")
    say("== compare")
    request = StageRequest(
        stage=stage,
        variant=None,
        config=campaign.compare,
        params={**campaign.params, "variants": list(names)},
        tracking=campaign.tracking,
        run_id=campaign.run_id,
    )
    found = request.run_in(campaign.workspace)
    return {"outputs": found["outputs"], "best": found["result"]["best"]}


def _fail(failures: dict[str, YoloError], name: str, error: YoloError) -> None:
    failures[name] = error
    complain(f"{name}: {error}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = new_parser("study-all", "Study several models, then put them into one table and plot.")
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a variant (its weights are in models/), p5, p6 or all for those of the release, the path of a "
        "checkpoint, or a registered model; default: the params' variants",
    )
    parser.add_argument("--run-id", help="id of the pipeline run; stages of one run share it")
    return parser.parse_args(argv)
