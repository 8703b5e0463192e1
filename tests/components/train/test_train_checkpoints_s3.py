"""States of a training on a real S3 server: resumed to the same bits, damaged, refused, cleaned up."""

from __future__ import annotations

import http.client
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from components.train.checkpoints import begin, forget, open_states
from components.train.config import TrainConfig
from components.train.plan import TrainPlan, make_plan
from yolo_core.data.coco import DetectionDataset, open_dataset
from yolo_core.engine.checkpoint import TrainingState
from yolo_core.engine.states import Saving
from yolo_core.engine.train import BEST_FILE, LAST_FILE, Trainer
from yolo_core.errors import UnreachableError, UsageError


@pytest.fixture
def storage() -> str:
    """An address that nobody has used."""
    return f"s3://work/{uuid.uuid4().hex}/train"


@pytest.fixture
def dataset(squares: Path) -> DetectionDataset:
    return open_dataset(squares)


@pytest.fixture
def plan(make_config: Callable[..., TrainConfig], dataset: DetectionDataset) -> TrainPlan:
    return make_plan(make_config(checkpoint_steps=2, precision="fp32"), "yolov5n", dataset, Path("/nowhere"))


def objects(s3: Any, storage: str) -> list[str]:
    found = s3.client().list_objects_v2(Bucket="work", Prefix=storage.removeprefix("s3://work/"))
    return [item["Key"].rsplit("/", 1)[1] for item in found.get("Contents", ())]


def saving(iteration: int) -> Saving:
    return Saving(state=TrainingState(tensors={"a": torch.zeros(2)}, values={"iteration": iteration}))


def test_a_training_on_s3_resumes_to_the_same_bits(
    s3: Any, storage: str, plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path
) -> None:
    assert begin(storage, plan) is None
    first = Trainer(plan.settings, dataset, open_states(storage, plan))
    first.request_stop()
    assert list(first.epochs()) == [] and first.stopped
    names = objects(s3, storage)
    assert sorted(name.split("-")[0] for name in names) == ["state", "state", "training.json"]
    second = Trainer(plan.settings, dataset, open_states(storage, plan))
    assert second.resume()
    list(second.epochs())
    (tmp_path / "s3").mkdir()
    found = open_states(storage, plan).newest(weights_to=tmp_path / "s3")
    assert found is not None and found[1].values["iteration"] == 6
    list(Trainer(plan.settings, dataset, tmp_path / "disk").epochs())
    for name in (BEST_FILE, LAST_FILE):
        assert (tmp_path / "s3" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()
    forget(storage, plan)
    assert objects(s3, storage) == []


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_object_falls_back_to_the_state_before(
    s3: Any, storage: str, plan: TrainPlan, harm: str
) -> None:
    begin(storage, plan)
    store = open_states(storage, plan, keep=2)
    for iteration in (1, 2, 3):
        store.save(saving(iteration))
    names = sorted(name for name in objects(s3, storage) if name.endswith(".safetensors"))
    assert len(names) == 2  # older ones are gone
    bucket, key = "work", f"{storage.removeprefix('s3://work/')}/{plan.run_name}/{names[-1]}"
    content = s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    if harm == "gone":
        s3.client().delete_object(Bucket=bucket, Key=key)
    else:
        worse = content[:-1] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1])
        s3.client().put_object(Bucket=bucket, Key=key, Body=worse)
    warnings: list[str] = []
    again = open_states(storage, plan, keep=2, warn=warnings.append)
    found = again.newest()
    assert found is not None and found[1].values["iteration"] == 2
    assert len(warnings) == 1 and f"s3://work/{key}" in warnings[0]
    again.save(saving(3))
    clean = open_states(storage, plan, warn=warnings.append).newest()
    assert clean is not None and clean[1].values["iteration"] == 3 and len(warnings) == 1
    assert len(objects(s3, storage)) == 5


def test_an_unfinished_training_with_other_settings_is_told_of(
    s3: Any, storage: str, plan: TrainPlan, make_config: Callable[..., TrainConfig], dataset: DetectionDataset
) -> None:
    begin(storage, plan)
    open_states(storage, plan).save(saving(1))
    config = make_config(checkpoint_steps=2, precision="bf16")
    line = begin(storage, make_plan(config, "yolov5n", dataset, Path("/nowhere")))
    assert line is not None and f"{storage}/{plan.run_name} differs in precision fp32 -> bf16;" in line


def test_a_bucket_that_is_not_there_is_an_error_before_the_training(s3: Any, plan: TrainPlan) -> None:
    with pytest.raises(UsageError, match="no such bucket"):
        begin("s3://nobody-made-this/train", plan)


class Gate(BaseHTTPRequestHandler):
    """A proxy before the store that answers 503 to writes while it is shut."""

    protocol_version = "HTTP/1.1"
    target = ""
    shut = threading.Event()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "PUT" and self.shut.is_set():
            self.answer(503, [], b"")
            return
        connection = http.client.HTTPConnection(self.target, timeout=30)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        kept = [(key, value) for key, value in reply.getheaders() if key.lower() in ("etag", "content-type")]
        self.answer(reply.status, kept, content, reply.getheader("Content-Length"))
        connection.close()

    def answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", (length or "0") if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815 - names that http.server wants


@pytest.fixture
def gate(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Put the proxy before the store for the project; set the event to shut it."""
    Gate.target = urlsplit(s3.endpoint).netloc
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # else bodies come in pieces
    yield Gate.shut
    Gate.shut.clear()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_store_that_answers_503_for_a_while_does_not_end_the_training(
    gate: threading.Event, storage: str, plan: TrainPlan, dataset: DetectionDataset, tmp_path: Path
) -> None:
    begin(storage, plan)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        gate.clear()  # repaired once the first refusal was told

    trainer = Trainer(plan.settings, dataset, open_states(storage, plan, warn=warn))
    gate.set()
    list(trainer.epochs())
    assert len(warnings) == 2
    assert "S3 answers" in warnings[0] or "upload failed" in warnings[0]
    assert "training goes on" in warnings[0] and warnings[1].endswith("again")
    found = open_states(storage, plan).newest(weights_to=tmp_path)
    assert found is not None and len(found[1].values["history"]) == 2
    assert (tmp_path / LAST_FILE).is_file()


def test_a_store_that_is_down_when_a_training_starts_is_out_of_reach(
    s3: Any, plan: TrainPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="does not answer"):
        open_states("s3://work/train", plan)
