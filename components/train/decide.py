"""All that is decided before a training begins: numbers, the plan, what it goes on from and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.train.config import TrainParams
from components.train.plan import TrainPlan, make_plan
from components.train.pretrained import Registry
from components.train.resume import Source, adopt, find_source
from components.train.settle import Settled, settle
from components.workspace import Workspace
from yolo_core.data.coco import DetectionDataset, open_dataset


@dataclass(frozen=True, kw_only=True)
class Decided:
    """``storage`` is a folder or s3:// address; ``source`` are another training's states to go on from."""

    dataset: DetectionDataset
    storage: str
    numbers: Settled
    plan: TrainPlan
    source: Source | None


def decide(params: TrainParams, variant: str, workspace: Workspace, registry: Registry) -> Decided:
    """Decide on a training of the dataset in a workspace; writes only what the registry is asked for.

    Raises:
        UsageError: a setting, path or variant is wrong.
        DataError: the dataset is wrong.
        UnreachableError: the registry, the storage or the Ray that the params name does not answer.
    """
    dataset = open_dataset(workspace.path("data/dataset"))
    storage = _storage(params, workspace)
    numbers = settle(params, variant, dataset, storage)
    plan = make_plan(numbers.config, variant, dataset, workspace.root, registry)
    source = find_source(params.resume, workspace.root, plan)
    if source is not None:
        plan = adopt(plan, source)
    return Decided(dataset=dataset, storage=storage, numbers=numbers, plan=plan, source=source)


def _storage(params: TrainParams, workspace: Workspace) -> str:
    """Return where unfinished trainings are: in the workspace, unless the params name a place of its own."""
    place = params.storage
    if "://" in place or Path(place).is_absolute():
        return place
    return f"{workspace.uri}/{place}"
