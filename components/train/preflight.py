"""Find what would make a training fail on some machine, before any of them starts to work for it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from components.code import code_digest
from components.train.config import TrainConfig
from components.train.node import NodeFacts, Question, leave_token, look, remove_token, torch_build
from components.train.plan import TrainPlan
from components.train.scaling import Node
from yolo_core.data.cache import CacheSettings, lay_out
from yolo_core.data.coco import DetectionDataset
from yolo_core.errors import UnreachableError, UsageError, YoloError
from yolo_core.model.graph import create_model
from yolo_core.model.profile import count_parameters

_log = logging.getLogger(__name__)
_MIB = 1024**2
_BYTES_PER_PARAMETER = 28
"""Of a state: model, average, two moments, gradients, best and last weights; 4 bytes each."""
_SHM_PER_WORKER = 64 * _MIB
"""What NCCL may take in /dev/shm for the channels of one worker; Docker gives a container as much in all."""
_SHM_OF_RAY = 128 * _MIB
_NODE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What each machine must be like; sizes in bytes.

    Attributes:
        storage: name of the place of the states, for messages.
        dataset_root, dataset: where the dataset is, and its digest.
        code, torch: of the machine that starts the training.
        nccl: whether the workers' collectives are NCCL's.
        shm: shared memory per machine.
        state_bytes: room for the states in the storage.
        scratch_bytes: room for temporary files.
        cache_bytes: what the decoded images would take there too, if several workers share them.
    """

    storage: str
    dataset_root: str
    dataset: str
    code: str
    torch: str
    nccl: bool
    shm: int
    state_bytes: int
    scratch_bytes: int
    cache_bytes: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, with its remedy; ``reach`` says that something cannot be reached."""

    text: str
    reach: bool = False


def preflight(
    config: TrainConfig, plan: TrainPlan, dataset: DetectionDataset, storage: str, nodes: Sequence[Node] = ()
) -> None:
    """Check every machine that a worker may run on, this one if no nodes are given.

    On nodes this runs as Ray tasks that take no CPU and no GPU.

    Raises:
        UsageError: with one line for each thing that is wrong.
        UnreachableError: the same, if all of them are things out of reach.
    """
    needs = find_needs(config, plan, dataset, storage)
    token = f".preflight-{uuid.uuid4().hex}"
    question = Question(storage=storage, token=token, dataset_root=str(plan.dataset_root))
    fault = leave_token(storage, token)
    if fault is not None:
        found = [_storage_finding(storage, fault, "this machine")]
    else:
        try:
            answers = _ask(question, [node for node in nodes if node.places(config)]) if nodes else []
            answers = answers or [look(question)]
        finally:
            remove_token(storage, token)
        found = [*_gpus_here(config), *judge_all(needs, answers)]
    if found:
        text = "\n".join(finding.text for finding in found)
        kind = UnreachableError if all(finding.reach for finding in found) else UsageError
        raise kind(
            text if len(found) == 1 else f"{len(found)} things stand in the way of the training:\n{text}"
        )


def _gpus_here(config: TrainConfig) -> list[Finding]:
    """Compare the GPUs asked for with this machine's: a Ray started here believes what it is told."""
    asked, there = config.workers * config.gpus_per_worker, torch.cuda.device_count()
    if config.ray_address is not None or asked <= there:
        return []
    text = f"train asks for {asked} GPU{'s' * (asked != 1)}, torch sees {there} on this machine"
    return [Finding(text=f"{text}; lower train.workers, or set train.gpus_per_worker to 0")]


def find_needs(config: TrainConfig, plan: TrainPlan, dataset: DetectionDataset, storage: str) -> Needs:
    """Return what a plan needs of every machine."""
    state = _BYTES_PER_PARAMETER * count_parameters(create_model(plan.settings.variant, len(dataset.names)))
    nccl = config.collectives == "nccl" and config.workers > 1
    shm = _SHM_OF_RAY if config.ray_address is not None else 0
    cache = 0
    if config.workers > 1:
        settings = CacheSettings(image_size=config.image_size)
        cache = sum(lay_out(dataset.samples(split), settings).bytes for split in ("train", "val"))
    return Needs(
        storage=storage,
        dataset_root=str(plan.dataset_root),
        dataset=dataset.digest,
        code=code_digest(),
        torch=str(torch_build().get("__version__", "none")),
        nccl=nccl,
        shm=shm + (_SHM_PER_WORKER * config.workers if nccl else 0),
        state_bytes=(config.keep_checkpoints + 2) * state,
        scratch_bytes=2 * state,
        cache_bytes=cache,
    )


def judge_all(needs: Needs, answers: Iterable[NodeFacts | Finding]) -> list[Finding]:
    """Return all that is wrong; what several machines have in common is one finding that names them."""
    hosts: dict[Finding, list[str]] = {}
    for answer in answers:
        found = [answer] if isinstance(answer, Finding) else judge(needs, answer)
        for finding in found:
            hosts.setdefault(finding, []).append("" if isinstance(answer, Finding) else answer.host)
    return [
        Finding(
            text=f"{', '.join(dict.fromkeys(names))}: {finding.text}" if names[0] else finding.text,
            reach=finding.reach,
        )
        for finding, names in hosts.items()
    ]


def judge(needs: Needs, node: NodeFacts) -> list[Finding]:
    """Return what is wrong with one machine; the texts do not name it."""
    found = []
    if node.storage_fault is not None:
        found.append(_storage_finding(needs.storage, node.storage_fault))
    found += [Finding(text=text) for text in (*_versions(needs, node), *_sizes(needs, node))]
    if node.dataset != needs.dataset:
        state = "no dataset" if node.dataset is None else f"another dataset ({node.dataset[:23]})"
        found.append(
            Finding(
                text=f"{state} at {needs.dataset_root}, which should hold {needs.dataset[:23]}; put the "
                "workspace on a disk that all nodes share"
            )
        )
    if 0 < needs.cache_bytes > node.scratch_free - needs.scratch_bytes:
        _log.warning(
            "%s: %s has no room for %s of decoded images, so each is decoded every time; free some, or point "
            "TMPDIR elsewhere",
            node.host,
            node.scratch,
            _size(needs.cache_bytes),
        )
    return found


def _versions(needs: Needs, node: NodeFacts) -> list[str]:
    texts = []
    if node.code != needs.code:
        texts.append(
            f"another version of this project's code ({node.code[:12]}, not {needs.code[:12]}); install the "
            "same there, or send it along: with http://HOST:8265, the job server, as train.ray_address"
        )
    if node.torch.partition("+")[0] != needs.torch.partition("+")[0]:  # builds for CPU and CUDA go together
        texts.append(f"torch {node.torch}, not {needs.torch}; install requirements/ml.txt there")
    if needs.nccl and node.cuda is None:
        texts.append(
            f"torch {node.torch} is built without CUDA, so it has no NCCL; install a CUDA build there, or "
            "train on CPUs with train.gpus_per_worker 0"
        )
    return texts


def _sizes(needs: Needs, node: NodeFacts) -> list[str]:
    texts = []
    if node.shm is not None and node.shm < needs.shm:
        texts.append(
            f"/dev/shm has {_size(node.shm)}, the workers need {_size(needs.shm)}; start the container with "
            "--shm-size, or mount a memory volume there"
        )
    if node.storage_free is not None and node.storage_free < needs.state_bytes:
        texts.append(
            f"train.storage {needs.storage} has {_size(node.storage_free)} free, the states need "
            f"{_size(needs.state_bytes)}; make room, or lower train.keep_checkpoints"
        )
    if node.scratch_free < needs.scratch_bytes:
        texts.append(
            f"{node.scratch} has {_size(node.scratch_free)} free, a worker needs "
            f"{_size(needs.scratch_bytes)}; make room, or point TMPDIR elsewhere"
        )
    return texts


def _storage_finding(storage: str, fault: str, host: str = "") -> Finding:
    return Finding(
        text=f"{host}{': ' if host else ''}train.storage {storage} cannot be used: {fault}; name a folder "
        "that every node shares and may write to, or an s3:// address",
        reach=True,
    )


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / _MIB:.0f} MiB"


def _ask(question: Question, nodes: Sequence[Node]) -> list[NodeFacts | Finding]:
    """Let every node look, all at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_facts)
    asked: list[Any] = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
        options = task.options(num_cpus=0, num_gpus=0, max_retries=1, scheduling_strategy=there)
        asked.append(options.remote(asdict(question)))
    ray.wait(asked, num_returns=len(asked), timeout=_NODE_SECONDS)
    return [_answer(node, reference) for node, reference in zip(nodes, asked, strict=True)]


def _facts(question: dict[str, str]) -> dict[str, Any]:
    """Look on this node; plain values, so that an older version of this code there is no trouble."""
    return asdict(look(Question(**question)))


def _answer(node: Node, reference: Any) -> NodeFacts | Finding:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    try:
        return NodeFacts(**ray.get(reference, timeout=1))
    except GetTimeoutError:
        return Finding(text=f"{node.host}: does not answer within {_NODE_SECONDS:.0f} s", reach=True)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, YoloError):
            return Finding(text=f"{node.host}: {cause}", reach=cause.exit_code == UnreachableError.exit_code)
        last = str(error).strip().splitlines()[-1]
        return Finding(
            text=f"{node.host}: another version of this project's code ({last[:120]}); install the same"
        )
    except (RayError, TypeError) as error:
        return Finding(text=f"{node.host}: {' '.join(str(error).split())[:160]}", reach=True)
