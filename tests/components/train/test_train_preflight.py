"""Every check of the preflight fails on a real machine that is wrong in that way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from components.code import code_digest, copy_code
from components.train import preflight as checks
from components.train.config import TrainConfig
from components.train.node import NodeFacts, Question, leave_token, look, torch_build
from components.train.plan import TrainPlan, make_plan
from components.train.preflight import Finding, Needs, find_needs, judge, judge_all, preflight
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.errors import UnreachableError, UsageError

MakeConfig = Callable[..., TrainConfig]
TOKEN = "token"


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.fixture
def config(make_config: MakeConfig) -> TrainConfig:
    return make_config()


@pytest.fixture
def plan(config: TrainConfig, dataset: DetectionDataset, tmp_path: Path) -> TrainPlan:
    return make_plan(config, "yolov5n", dataset, tmp_path)


@pytest.fixture
def question(squares: Path, tmp_path: Path) -> Question:
    """A storage with the token that another machine would have left there."""
    storage = str(tmp_path / "states")
    assert leave_token(storage, TOKEN) is None
    return Question(storage=storage, token=TOKEN, dataset_root=str(squares))


@pytest.fixture
def needs(config: TrainConfig, plan: TrainPlan, dataset: DetectionDataset, question: Question) -> Needs:
    return find_needs(config, plan, dataset, question.storage)


@contextmanager
def not_root() -> Iterator[None]:
    """Obey the permissions of files, which root does not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def texts(needs: Needs, facts: NodeFacts) -> list[str]:
    return [finding.text for finding in judge(needs, facts)]


def test_this_machine_passes_and_keeps_nothing(
    config: TrainConfig, plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path
) -> None:
    storage = tmp_path / "deep" / "states"
    preflight(config, plan, dataset, str(storage))
    assert list(storage.iterdir()) == []


def test_what_a_machine_says_of_itself(question: Question, needs: Needs, dataset: DetectionDataset) -> None:
    facts = look(question)
    assert (facts.dataset, facts.code, facts.torch) == (dataset.digest, code_digest(), torch.__version__)
    assert facts.cuda == torch.version.cuda
    assert facts.storage_fault is None and texts(needs, facts) == []
    assert [path.name for path in Path(question.storage).iterdir()] == [TOKEN]


def test_a_folder_that_may_not_be_written(question: Question, needs: Needs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "states"
        leave_token(str(storage), TOKEN)
        storage.chmod(0o555)
        storage.parent.chmod(0o755)
        with not_root():
            facts = look(replace(question, storage=str(storage)))
        storage.chmod(0o755)
    finding = judge(needs, facts)[0]
    assert (
        finding.reach and "cannot be used: Permission denied; name a folder that every node" in finding.text
    )


def test_a_folder_that_may_not_be_seen(question: Question, needs: Needs) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "states"
        leave_token(str(storage), TOKEN)
        Path(folder).chmod(0)
        with not_root():
            facts = look(replace(question, storage=str(storage)))
        Path(folder).chmod(0o700)
    assert facts.storage_free is None and "Permission denied" in judge(needs, facts)[0].text


def test_a_storage_that_cannot_be_made_is_out_of_reach(
    config: TrainConfig, plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UnreachableError, match=r"this machine: train\.storage .*/file/states cannot be used: Not a"
    ):
        preflight(config, plan, dataset, str(tmp_path / "file" / "states"))


def test_a_disk_of_its_own_is_no_shared_storage(question: Question, needs: Needs, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    facts = look(replace(question, storage=str(tmp_path / "other")))
    assert "another place there than on the machine that starts the training" in texts(needs, facts)[0]


def test_an_s3_storage_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, question: Question) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    facts = look(replace(question, storage="s3://bucket/states"))
    assert facts.storage_fault is not None and "does not answer" in facts.storage_fault
    assert facts.storage_free is None


def test_a_dataset_that_is_not_there_or_another(question: Question, needs: Needs, tmp_path: Path) -> None:
    nowhere = look(replace(question, dataset_root=str(tmp_path / "nothing")))
    assert "no dataset at " in texts(needs, nowhere)[0]
    other = tmp_path / "other"
    shutil.copytree(question.dataset_root, other)
    (other / "dataset.json").write_text('{"digest": "sha256:0123"}')
    assert (
        "another dataset (sha256:0123) at "
        in texts(needs, look(replace(question, dataset_root=str(other))))[0]
    )


LOOK = """
import json, sys
from dataclasses import asdict
from components.train.node import Question, look
assert "torch" not in sys.modules
print(json.dumps(asdict(look(Question(**json.loads(sys.argv[1]))))))
"""


def look_elsewhere(question: Question, code: Path, *before: str) -> NodeFacts:
    """Look in a process of its own that runs the code of a folder, after some shell commands."""
    import json

    python = [sys.executable, "-c", LOOK, json.dumps(asdict(question))]
    command = (
        ["unshare", "-m", "sh", "-c", f'{" && ".join(before)} && exec "$@"', "sh", *python]
        if before
        else python
    )
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, check=False)
    if before and ("unshare:" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr[-2000:]
    return NodeFacts(**json.loads(done.stdout))


def test_another_version_of_the_code(question: Question, needs: Needs, tmp_path: Path) -> None:
    copy_code(tmp_path / "copy")
    assert look_elsewhere(question, tmp_path / "copy").code == needs.code  # wherever it lies
    with (tmp_path / "copy" / "yolo_core" / "errors.py").open("a") as file:
        file.write("# changed\n")
    facts = look_elsewhere(question, tmp_path / "copy")
    assert (
        f"another version of this project's code ({facts.code[:12]}, not {needs.code[:12]})"
        in texts(needs, facts)[0]
    )


def test_shared_memory_and_disks_that_are_too_small(question: Question, needs: Needs, repo: Path) -> None:
    facts = look_elsewhere(
        question,
        repo,
        "mount -t tmpfs -o size=64m tmpfs /dev/shm",
        f"mount -t tmpfs -o size=2m tmpfs {question.storage}",
        f"touch {question.storage}/{TOKEN}",
        "mkdir -p /tmp/small-scratch",
        "mount -t tmpfs -o size=3m tmpfs /tmp/small-scratch",
        "export TMPDIR=/tmp/small-scratch",
    )
    assert facts.storage_fault is None
    shm, storage, scratch = texts(replace(needs, shm=128 * 1024**2), facts)
    assert "/dev/shm has 64 MiB, the workers need 128 MiB; start the container with --shm-size" in shm
    assert (
        "states has 2 MiB free, the states need 189 MiB" in storage
        and "lower train.keep_checkpoints" in storage
    )
    assert "/tmp/small-scratch has 3 MiB free, a worker needs 94 MiB" in scratch and "TMPDIR" in scratch
    assert texts(needs, facts) == [
        storage,
        scratch,
    ]  # CPU workers on this machine alone need no shared memory


def test_a_worker_with_another_torch_or_without_nccl(question: Question, needs: Needs) -> None:
    facts = replace(look(question), torch="2.1.0", cuda=None)
    assert texts(needs, facts) == [f"torch 2.1.0, not {needs.torch}; install requirements/ml.txt there"]
    plain = str(torch_build()["__version__"]).partition("+")[0]
    assert texts(needs, replace(facts, torch=f"{plain}+cu128")) == []  # a driver without a GPU is no fault
    (text,) = texts(replace(needs, nccl=True), replace(facts, torch=plain))
    assert "built without CUDA, so it has no NCCL" in text


def test_little_room_for_decoded_images_is_a_warning(
    question: Question, needs: Needs, caplog: pytest.LogCaptureFixture
) -> None:
    assert judge(replace(needs, cache_bytes=10**18), look(question)) == []
    assert "no room for 931322574.6 GiB of decoded images" in caplog.text


def test_all_findings_come_at_once_and_equal_ones_together(
    question: Question, needs: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = look(question)
    wrong = replace(facts, torch="2.1.0", dataset=None)
    answers = [
        replace(wrong, host="a"),
        replace(wrong, host="b"),
        replace(facts, host="c", storage_fault="full"),
    ]
    found = judge_all(needs, [*answers, Finding(text="d: does not answer", reach=True)])
    assert [finding.text[:30].partition(" ")[0] for finding in found] == ["a,", "a,", "c:", "d:"]
    assert found[0].text.startswith("a, b: torch 2.1.0")
    assert [finding.reach for finding in found] == [False, False, True, True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpus_that_this_machine_does_not_have(
    make_config: MakeConfig, dataset: DetectionDataset, plan: TrainPlan, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"asks for 2 GPUs, torch sees 0 on this machine; lower train\.workers"
    ):
        preflight(make_config(workers=2, gpus_per_worker=1), plan, dataset, str(tmp_path))


def test_the_exit_code_fits_what_is_wrong(
    config: TrainConfig,
    plan: TrainPlan,
    dataset: DetectionDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = Finding(text="wrong")
    reach = Finding(text="gone", reach=True)
    for found, kind in (([reach], UnreachableError), ([usage, reach], UsageError)):
        monkeypatch.setattr(checks, "judge_all", lambda *_, found=found: found)
        with pytest.raises(kind, match="gone") as caught:
            preflight(config, plan, dataset, str(tmp_path))
        assert type(caught.value) is kind
        assert len(str(caught.value).splitlines()) == (1 if len(found) == 1 else 3)


def test_needs_grow_with_workers_model_and_states(
    make_config: MakeConfig, dataset: DetectionDataset, tmp_path: Path
) -> None:
    def needed(variant: str = "yolov5n", **changes: object) -> Needs:
        config = make_config(**changes)
        return find_needs(config, make_plan(config, variant, dataset, tmp_path), dataset, "/states")

    alone = needed()
    assert alone.shm == 0 and alone.cache_bytes == 0 and not alone.nccl
    assert needed(keep_checkpoints=4).state_bytes == alone.state_bytes / 4 * 6
    assert needed("yolov5s").state_bytes > 3 * alone.state_bytes
    assert needed(workers=2).cache_bytes == (24 + 8) * 64 * 64 * 3
    many = needed(workers=2, gpus_per_worker=1, ray_address="127.0.0.1:6379")
    assert many.nccl and many.shm == (128 + 2 * 64) * 1024**2
