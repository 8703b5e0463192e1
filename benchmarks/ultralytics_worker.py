"""The other side of against_ultralytics.py: runs in an environment that has the package `ultralytics`.

Uses only what the package documents. It takes orders, ``train SIZE BATCH`` or ``val SIZE``, line by line
from standard input, and answers each with one line of JSON on standard output, after ``RESULT``.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from ultralytics import YOLO

Clock = tuple[float, float]


def now() -> Clock:
    """Wall clock and processor time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def train(common: dict[str, Any], size: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """Train one epoch from scratch; seconds between the ends of batches."""
    marks: list[Clock] = []
    model = YOLO("yolov5n.yaml")
    model.add_callback("on_train_batch_end", lambda _trainer: marks.append(now()))
    model.train(
        imgsz=size, batch=batch, epochs=1, val=False, close_mosaic=0, cache="ram", optimizer="SGD", **common
    )
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    return model, {"wall": [wall for wall, _ in steps], "cpu": [cpu for _, cpu in steps]}


def validate(model: Any, common: dict[str, Any], size: int, images: int) -> dict[str, Any]:
    """Validate; milliseconds per image of the whole call, and of the parts that the package times."""
    began = now()
    speed = model.val(imgsz=size, batch=1, **common).speed
    ended = now()
    whole = {"wall": (ended[0] - began[0]) * 1000 / images, "cpu": (ended[1] - began[1]) * 1000 / images}
    return {**whole, "parts": speed["preprocess"] + speed["inference"] + speed["postprocess"]}


def main() -> None:
    """Obey until standard input ends. Arguments: data.yaml, scratch folder, validation images, threads."""
    data, scratch, images, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    common = {
        "data": data,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "verbose": False,
        "project": scratch,
        "exist_ok": True,
    }
    model: Any = None
    for line in sys.stdin:
        order = line.split()
        if order[0] == "train":
            model, answer = train(common, int(order[1]), int(order[2]))
        else:
            answer = validate(model, common, int(order[1]), int(images))
        print("RESULT " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
