"""The registered model in a process of its user's: what it takes, what it refuses, where it runs."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from tests.components.register.workspace import NAME, Registered, checkpoint_finds, same


@pytest.fixture(scope="module")
def model(registered: Registered) -> Any:
    import mlflow

    mlflow.set_tracking_uri(registered.uri)
    mlflow.set_registry_uri(registered.uri)
    return mlflow.pyfunc.load_model(f"models:/{NAME}/1")


@pytest.fixture(scope="module")
def expected(registered: Registered, photo: Path) -> list[dict[str, Any]]:
    return checkpoint_finds(registered, photo)


CHECKPOINT = {"backend": "checkpoint"}


def test_every_kind_of_input(model: Any, photo: Path, expected: list[dict[str, Any]]) -> None:
    content = photo.read_bytes()
    text = base64.b64encode(content).decode()
    wrapped = base64.encodebytes(content).decode()
    pixels = cv2.imread(str(photo))
    pillow = Image.open(io.BytesIO(content))
    kinds = [
        content,
        bytearray(content),
        text,
        wrapped,
        f"data:image/jpeg;base64,{text}",
        photo,
        pixels,
        pillow,
    ]
    answers = model.predict(kinds, params=CHECKPOINT)
    assert len(answers) == len(kinds)
    assert all(same(answer, expected) for answer in answers)
    assert same(model.predict(pd.DataFrame({"image": [text]}), params=CHECKPOINT)[0], expected)
    assert model.predict([np.full((40, 60), 114, np.uint8)]) == [[]]
    assert json.loads(json.dumps(answers)) == answers


def test_images_of_many_sizes_in_one_batch(model: Any, photo: Path) -> None:
    pixels = cv2.imread(str(photo))
    batch = [pixels, pixels[:100], pixels[:, :33], pixels[:1, :1]]
    for backend in ("best", "checkpoint"):
        together = model.predict(batch, params={"backend": backend})
        alone = [model.predict([image], params={"backend": backend})[0] for image in batch]
        assert together == alone
        for found, image in zip(together, batch, strict=True):
            height, width = image.shape[:2]
            assert all(
                0 <= x <= width and 0 <= y <= height for row in found for x, y in _corners(row["xyxy"])
            )


def _corners(box: list[float]) -> list[tuple[float, float]]:
    return [(box[0], box[1]), (box[2], box[3])]


def test_params_reach_the_suppression(model: Any, photo: Path, expected: list[dict[str, Any]]) -> None:
    (few,) = model.predict([photo], params={**CHECKPOINT, "max_det": 1})
    assert same(few, expected[:1])
    assert model.predict([photo], params={"conf": 0.99}) == [[]]
    loose = model.predict([photo], params={"conf": 0.01, "iou": 1})[0]
    assert len(loose) > len(model.predict([photo], params={"conf": 0.01, "iou": 0.3})[0])


def test_best_is_the_export_that_was_fastest(model: Any, photo: Path, expected: list[dict[str, Any]]) -> None:
    """TorchScript has a fixed square input, so boxes differ a little from the rectangular checkpoint's."""
    (best,) = model.predict([photo])
    assert best == model.predict([photo], params={"backend": "torchscript"})[0]
    assert best[0]["name"] == expected[0]["name"]
    assert np.allclose(best[0]["xyxy"], expected[0]["xyxy"], atol=12)


def test_a_size_goes_to_a_backend_that_takes_it(model: Any, photo: Path) -> None:
    (smaller,) = model.predict([photo], params={"size": 200})
    assert smaller == model.predict([photo], params={"size": 224, **CHECKPOINT})[0]
    with pytest.raises(MlflowException, match="torchscript takes 320 pixels only, not 224"):
        model.predict([photo], params={"size": 224, "backend": "torchscript"})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"conf": 1.5}, "param conf must lie in 0..1, not 1.5"),
        ({"iou": -0.1}, "param iou must lie in 0..1"),
        ({"conf": float("nan")}, "param conf must lie in 0..1"),
        ({"conf": "high"}, "conf"),
        ({"max_det": 0}, "param max_det must lie in 1..10000, not 0"),
        ({"max_det": 3.5}, "max_det"),
        ({"size": 31}, "param size must be 0, or 32 to 2048 pixels, not 31"),
        ({"size": 100_000}, "param size must be 0, or 32 to 2048 pixels"),
        ({"backend": "tensorrt"}, "unknown backend 'tensorrt'; choose from best, checkpoint, torchscript"),
    ],
)
def test_a_wrong_param_is_named(model: Any, photo: Path, params: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict([photo], params=params)
    assert caught.value.get_http_status_code() == 400


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("no such file", "image 1 is not base64, and paths are not read: 'no such file'"),
        ("aGVsbG8=", "image 1 is not a JPEG or PNG"),
        ("", "image 1 is empty"),
        (b"", "image 1 is empty"),
        (b"GIF89a" + bytes(100), "image 1 is not a JPEG or PNG"),
        (bomb(9000, 9000), "image 1 has 9000 x 9000 pixels, over the limit of 50000000"),
        (bomb(2**20, 2**20), "image 1 has too many pixels"),
        ("http://example.org/a.jpg", "image 1 is a URL, and nothing is fetched"),
        ("s3://bucket/a.jpg", "image 1 is a URL, and nothing is fetched"),
        ("file:///etc/passwd", "image 1 is a URL, and nothing is fetched"),
        ("FILE:/etc/passwd", "image 1 is a URL, and nothing is fetched"),
        ("data:text/html;base64,aGVsbG8=", "image 1 is a URL"),
        ("/etc/passwd", "image 1 is not base64|image 1 is not a JPEG or PNG"),
        ("a" * 10_001, "image 1 is not base64"),
        (np.zeros((4, 4, 3)), "must be uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"must be \(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (Image.new("I", (4, 4)), "image 1 has mode I"),
        (Path("no-such.jpg"), "no-such.jpg cannot be read"),
        (3, "image 1 is a int"),
        (None, "image 1 is a NoneType"),
        ([[0]], "image 1 is a list"),
    ],
)
def test_a_wrong_item_is_named(model: Any, photo: Path, item: Any, message: str) -> None:
    with pytest.raises(MlflowException, match=message) as caught:
        model.predict([photo, item])
    assert caught.value.get_http_status_code() == 400


def test_a_truncated_jpeg_is_told(model: Any, photo: Path) -> None:
    content = photo.read_bytes()
    for part in (content[: len(content) // 2], content[:300]):
        with pytest.raises(MlflowException, match="image 0 "):
            model.predict([part])
    half = Image.open(io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(MlflowException, match="image 0 does not decode"):
        model.predict([half])


def test_no_image_at_all_is_told(model: Any) -> None:
    with pytest.raises(MlflowException, match="there is no image"):
        model.predict([])


def test_texts_are_paths_where_the_loader_says_so(
    registered: Registered, photo: Path, expected: list[dict[str, Any]]
) -> None:
    import mlflow

    trusting = mlflow.pyfunc.load_model(f"models:/{NAME}/1", model_config={"allow_paths": True})
    assert same(trusting.predict([str(photo)], params=CHECKPOINT)[0], expected)
    with pytest.raises(MlflowException, match="image 0 is neither a file nor base64"):
        trusting.predict(["no such file"])
    with pytest.raises(MlflowException, match="nothing is fetched"):
        trusting.predict([photo.as_uri()])


def test_predict_draws_from_the_registry(
    registered: Registered, launch: Any, photo: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    store = ("--params", registered.root / "params.yaml", "--workspace", registered.root)
    words = ("predict", "--model", f"models:/{NAME}/1", *store, "--out", tmp_path, "--json", photo)
    done = launch(*words, "--backend", "checkpoint")
    assert done.code == 0, done.err
    (image,) = done.result["images"]
    assert same(image["detections"], expected)
    assert Path(image["output"]).is_file()
    assert launch(*words, "--image-size", "160").result["images"][0]["detections"] != image["detections"]
    refused = launch(*words, "--backend", "onnx")
    assert refused.code == 2
    assert "unknown backend 'onnx'; choose from best, checkpoint, torchscript" in refused.complaint
