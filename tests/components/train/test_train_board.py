from __future__ import annotations

import time
from typing import Any

import pytest

from components.train.board import Board, Console, Monitor, Posted, Row

ROW = {
    "epoch": 0.0,
    "box_loss": 0.1,
    "objectness_loss": 0.2,
    "class_loss": 0.3,
    "map50": 0.5,
    "map": 0.25,
    "images_per_second": 100.0,
    "data_wait_share": 0.031,
    "seconds": 61.0,
}
STEP: dict[str, Any] = {
    "epoch": 1,
    "epochs": 4,
    "step": 2,
    "steps": 5,
    "losses": {"box_loss": 0.1, "class_loss": 0.2},
    "images_per_second": 99.0,
    "data_wait_share": 0.12,
}


def row(epoch: int) -> dict[str, float]:
    return {**ROW, "epoch": float(epoch)}


def watch(board: Board, log: Any, tend: Any = lambda: None) -> Monitor:
    return Monitor(board.read, Console("t", 4), log, tend)


def test_a_board_gives_the_latest_step_and_the_new_rows() -> None:
    board = Board()
    assert board.read(0) == (None, [])
    board.post_step({"step": 1})
    board.post_step({"step": 2})
    board.post_earlier([row(0)])
    board.post_row(row(1))
    rows = [Posted(row(0), trained=False), Posted(row(1), trained=True)]
    assert board.read(0) == ({"step": 2}, rows)
    assert board.read(1) == ({"step": 2}, rows[1:])


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
        "yolov5n epoch 1/4  box 0.1000  obj 0.2000  cls 0.3000  mAP@.5 0.500  mAP 0.250  100 images/s  "
        "data wait 3%  01:01 each, 03:03 left\n"
    )


def test_console_moves_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    console = Console("yolov5n", 4)
    console.row(ROW)
    console.step(STEP)
    time.sleep(0.2)
    console.step({**STEP, "step": 4})
    console.close()
    shown = capsys.readouterr().err
    assert "yolov5n epoch 2/4" in shown and "40%" in shown
    last = shown.splitlines()[-1].split("\r")[-1]
    assert "box 0.100 class 0.200 mAP@.5 0.500 99 images/s data wait 12%" in last
    # 10 % of the run took 0.2 s and half of it is left: what was trained before the bar began does not count.
    assert "00:00<00:01" in last or "00:00<00:00" in last, last


def test_rows_are_logged_at_once_and_in_order() -> None:
    board = Board()
    logged: list[Row] = []
    tended: list[int] = []
    with watch(board, logged.append, lambda: tended.append(len(logged))) as monitor:
        board.post_row(row(0))
        deadline = time.monotonic() + 20
        while not logged:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        board.post_row(row(1))
        board.post_row(row(2))
        monitor.finish()
    assert [one["epoch"] for one in logged] == [0, 1, 2]
    assert tended


def test_a_resumed_training_gives_its_rows_again_but_shows_each_epoch_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = Board()
    logged: list[Row] = []
    with watch(board, logged.append) as monitor:
        board.post_earlier([row(0)])
        board.post_row(row(1))
        board.post_row(row(2))
        board.post_earlier([row(0), row(1)])  # a worker died; its last state was that of epoch 1
        board.post_row(row(2))
        board.post_row(row(3))
        monitor.finish()
    assert [one["epoch"] for one in logged] == [0, 1, 2, 0, 1, 2, 3]
    shown = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in shown] == ["t epoch 2/4", "t epoch 3/4", "t epoch 4/4"]
