"""The registered model behind ``mlflow models serve``, in an environment of only its own requirements."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.store import download
from tests.components.register.bare_venv import make_bare_venv
from tests.components.register.test_model import bomb
from tests.components.register.workspace import NAME, Registered, checkpoint_finds, clean_environment, same
from tests.s3_server import free_ports


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    log: Path

    def ask(self, body: object, kind: str = "application/json") -> tuple[int, Any]:
        """Send a request; returns the status, and the answer as JSON or text."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        line.request("POST", "/invocations", content, {"Content-Type": kind})
        reply = line.getresponse()
        text = reply.read().decode()
        line.close()
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, text

    def predict(self, images: list[str], **params: Any) -> list[list[dict[str, Any]]]:
        """Return the detections of images that are right."""
        status, answer = self.ask({"inputs": images, "params": params})
        assert status == 200, answer
        found: list[list[dict[str, Any]]] = answer["predictions"]
        return found

    def lives(self) -> bool:
        """Whether it answers."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            line.request("GET", "/ping")
            return line.getresponse().status == 200
        except OSError:
            return False
        finally:
            line.close()


@pytest.fixture(scope="module")
def server(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve version 1 where neither this repository nor a package beyond its requirements can be imported."""
    import mlflow

    mlflow.set_tracking_uri(registered.uri)
    mlflow.set_registry_uri(registered.uri)
    root = tmp_path_factory.mktemp("served")
    files = download(f"models:/{NAME}/1", root / "files")
    programs = make_bare_venv(root / "venv", (files / "requirements.txt").read_text("utf-8").split())
    (port,) = free_ports(1)
    server = Server(port, root / "log")
    words = ["models", "serve", "--model-uri", f"models:/{NAME}/1", "--env-manager", "local"]
    with server.log.open("w") as log:
        process = subprocess.Popen(
            [programs / "python", "-m", "mlflow", *words, "--host", "127.0.0.1", "--port", str(port)],
            cwd=root,
            env={
                **clean_environment(),
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "MLFLOW_TRACKING_URI": registered.uri,
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240
        while not server.lives():
            assert process.poll() is None, server.log.read_text()[-3000:]
            assert time.monotonic() < deadline, server.log.read_text()[-3000:]
            time.sleep(0.3)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def text(photo: Path) -> str:
    return base64.b64encode(photo.read_bytes()).decode()


@pytest.fixture(scope="module")
def expected(registered: Registered, photo: Path) -> list[dict[str, Any]]:
    return checkpoint_finds(registered, photo)


def test_it_finds_what_the_model_finds_in_process(
    server: Server, text: str, expected: list[dict[str, Any]]
) -> None:
    import mlflow

    assert same(server.predict([text], backend="checkpoint")[0], expected)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    assert same(server.predict([text])[0], model.predict([text])[0])


def test_params_and_batches_arrive(server: Server, text: str, expected: list[dict[str, Any]]) -> None:
    few = server.predict([text], max_det=1, backend="checkpoint")[0]
    assert same(few, expected[:1])
    assert server.predict([text], conf=0.99) == [[]]
    assert server.predict([text], conf=1) == [[]]
    assert server.predict([text], size=160) != server.predict([text], size=320)
    three = server.predict([text, f"data:image/jpeg;base64,{text}", text])
    assert three == server.predict([text]) * 3


def test_a_column_of_bytes_may_come_as_parquet(server: Server, photo: Path, text: str) -> None:
    table = io.BytesIO()
    pd.DataFrame({"image": [photo.read_bytes()] * 2}).to_parquet(table)
    status, answer = server.ask(table.getvalue(), "application/vnd.apache.parquet")
    assert status == 200, answer
    assert answer["predictions"] == server.predict([text, text])


def test_requests_at_once_do_not_mix(server: Server, text: str) -> None:
    sizes = (160, 320, 224, 160, 320, 224)
    alone = {size: server.predict([text], size=size, backend="checkpoint") for size in set(sizes)}

    def ask(size: int) -> bool:
        return server.predict([text], size=size, backend="checkpoint") == alone[size]

    with ThreadPoolExecutor(len(sizes)) as pool:
        assert all(pool.map(ask, sizes))


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda _: "not base64!", "image 1 is not base64, and paths are not read: 'not base64!'"),
        (lambda content: encoded(content[: len(content) // 2]), "image 1 is cut off"),
        (lambda _: encoded(bomb(100_000, 100_000)), "image 1 has too many pixels"),
        (lambda _: encoded(bomb(9000, 9000)), "image 1 has 9000 x 9000 pixels"),
        (lambda _: "", "image 1 is empty"),
        (lambda _: encoded(b"%PDF-1.7"), "image 1 is not a JPEG or PNG image"),
        (lambda _: 12, "image 1 is a int"),
        (lambda _: None, "image 1 is a NoneType"),
        (lambda _: [[[0, 0, 0]]], "image 1 is a list"),
        (lambda _: {"b64": "x"}, "image 1 is a dict"),
        (lambda _: "https://example.org/a.jpg", "image 1 is a URL, and nothing is fetched"),
        (lambda _: "/etc/hostname", "image 1 is not base64, and paths are not read"),
    ],
)
def test_a_broken_image_is_named_and_the_server_lives(
    server: Server, photo: Path, text: str, broken: Callable[[bytes], object], message: str
) -> None:
    status, answer = server.ask({"inputs": [text, broken(photo.read_bytes())]})
    assert status == 400
    assert answer["error_code"] == "INVALID_PARAMETER_VALUE"
    assert answer["message"].startswith(message)
    assert len(answer["message"]) < 300, "the request is not repeated in the answer"
    assert "stack_trace" not in answer
    assert server.lives()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": []}, "there is no image"),
        ({"inputs": "text"}, "list"),
        ({"images": ["text"]}, "inputs"),
        ({"dataframe_split": {"columns": ["image"], "data": [["x"]]}}, "inputs"),
        ([], "list"),
        (b"{", "JSON"),
        (b"", "JSON"),
        (b"\xff\xfe", "JSON"),
        ({"inputs": ["x"], "params": {"conf": 7}}, "param conf must lie in 0..1, not 7.0"),
        ({"inputs": ["x"], "params": {"conf": "high"}}, "conf"),
        ({"inputs": ["x"], "params": {"size": 100_000_000}}, "param size must be 0, or 32 to 2048"),
        ({"inputs": ["x"], "params": {"backend": "../../etc"}}, "unknown backend"),
        ({"inputs": ["x"], "params": ["conf"]}, "dictionary"),
    ],
)
def test_a_broken_request_is_refused_and_the_server_lives(
    server: Server, text: str, body: object, message: str
) -> None:
    status, answer = server.ask(body)
    assert status == 400, answer
    assert message in answer["message"]
    assert server.lives()
    assert server.predict([text], conf=0.99) == [[]]


def test_nothing_of_the_requests_is_in_the_log(server: Server, text: str) -> None:
    assert text[:200] not in server.log.read_text()
