from __future__ import annotations

import time
from typing import Any

import pytest

from components.train.board import Board, Console, Monitor
from yolo_core.errors import UnreachableError

ROW = {
    "epoch": 0.0,
    "box_loss": 0.1,
    "objectness_loss": 0.2,
    "class_loss": 0.3,
    "map50": 0.5,
    "map": 0.25,
    "images_per_second": 100.0,
}
STEP: dict[str, Any] = {
    "epoch": 1,
    "epochs": 4,
    "step": 2,
    "steps": 5,
    "losses": {"box_loss": 0.1, "class_loss": 0.2},
    "images_per_second": 99.0,
}


def test_a_board_gives_the_latest_step_and_the_new_rows() -> None:
    board = Board()
    assert board.read(0) == (None, [])
    board.post_step({"step": 1})
    board.post_step({"step": 2})
    board.post_row({"epoch": 0.0})
    board.post_row({"epoch": 1.0})
    assert board.read(0) == ({"step": 2}, [{"epoch": 0.0}, {"epoch": 1.0}])
    assert board.read(1) == ({"step": 2}, [{"epoch": 1.0}])


def test_console_writes_a_line_per_epoch_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console("yolov5n", 4)
    console.row(ROW)
    console.step(STEP)
    console.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "yolov5n epoch 1/4  box 0.1000  obj 0.2000  cls 0.3000  mAP@.5 0.500  mAP 0.250  100 images/s\n"
    )


def test_console_moves_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console = Console("yolov5n", 4)
    console.row(ROW)
    console.step(STEP)
    console.close()
    shown = capsys.readouterr().err
    assert "yolov5n epoch 2/4" in shown and "40%" in shown
    assert "box 0.100 class 0.200 mAP@.5 0.500 99 images/s" in shown


def test_each_epoch_is_logged_once_and_in_order() -> None:
    board, logged = Board(), []
    with Monitor(board.read, Console("t", 3), logged.append) as monitor:
        for epoch in range(3):
            board.post_row({**ROW, "epoch": float(epoch)})
            board.post_step(STEP)
            time.sleep(0.3)
        monitor.finish()
    assert [row["epoch"] for row in logged] == [0, 1, 2]


def test_rows_wait_while_the_tracking_store_is_down() -> None:
    board, logged, calls = Board(), [], []

    def log(row: Any) -> None:
        calls.append(row)
        if len(calls) < 3:
            raise UnreachableError("down")
        logged.append(row["epoch"])

    board.post_row({**ROW, "epoch": 0.0})
    board.post_row({**ROW, "epoch": 1.0})
    with Monitor(board.read, Console("t", 3), log) as monitor:
        time.sleep(1.8)
        monitor.finish()
    assert logged == [0, 1]


def test_the_end_insists_on_the_store() -> None:
    board = Board()
    board.post_row(ROW)

    def log(_: Any) -> None:
        raise UnreachableError("down")

    with pytest.raises(UnreachableError), Monitor(board.read, Console("t", 1), log) as monitor:
        monitor.finish()
