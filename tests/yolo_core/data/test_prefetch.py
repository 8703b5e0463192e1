"""Work ahead: in order, bounded, with its errors, and without leaving threads behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from yolo_core.data.prefetch import prefetched


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return number * number

    assert list(prefetched(slow_first, range(20), threads=threads)) == [n * n for n in range(20)]
    assert not loader_threads()


def test_nothing_to_do() -> None:
    assert list(prefetched(str, [], threads=3)) == []
    with pytest.raises(ValueError, match="threads"):
        list(prefetched(str, [1], threads=0))


def test_no_more_is_taken_than_needed() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = prefetched(lambda number: number, items(), threads=2)
    assert next(results) == 0
    time.sleep(0.05)
    assert taken == [0, 1, 2, 3]
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_its_result_would(capfd: pytest.CaptureFixture[str]) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise KeyError("three")
        return number

    results = prefetched(work, range(10), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert not loader_threads()


def test_a_break_leaves_no_thread() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        time.sleep(0.01)
        done.append(number)
        return number

    for number in prefetched(work, range(1000), threads=3):
        if number == 2:
            break
    assert not loader_threads()
    assert len(done) < 20
