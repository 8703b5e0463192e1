"""Which batch fits: the rule by property, and the straight line against real steps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.engine.batch_size import (
    LEAST,
    MOST_ON_CPU,
    STEPS_PER_EPOCH,
    Readings,
    choose_batch,
    expected_bytes,
    most_images,
)
from yolo_core.errors import UsageError

sizes = st.integers(1, 10**9)


@given(base=sizes, each=sizes, budget=st.integers(1, 10**12), most=st.sampled_from([2, 4, 16, 64, 1024]))
def test_the_largest_power_of_two_that_fits_is_chosen(base: int, each: int, budget: int, most: int) -> None:
    readings = Readings(budget=budget, taken={batch: base + each * batch for batch in (2, 4, 8)})
    if base + 2 * each > budget:
        with pytest.raises(UsageError, match="batch_size auto: 2 images take"):
            choose_batch(readings, most)
        return
    batch = choose_batch(readings, most)
    assert batch & (batch - 1) == 0 and LEAST <= batch <= most
    assert base + each * batch <= budget
    assert batch == most or base + each * 2 * batch > budget


@given(images=st.integers(1, 10**6), workers=st.integers(1, 64), device=st.sampled_from(["cpu", "cuda"]))
def test_bounds_leave_steps_to_an_epoch(images: int, workers: int, device: str) -> None:
    each = most_images(images, workers, device)
    assert each & (each - 1) == 0 and each >= LEAST
    if each > LEAST:
        assert images // (each * workers) >= STEPS_PER_EPOCH
        assert device == "cuda" or each * workers <= MOST_ON_CPU


def test_the_steepest_part_of_the_line_counts() -> None:
    assert expected_bytes({2: 10, 4: 20, 8: 22}, 16) == 22 + 8 * 5
    assert expected_bytes({2: 10, 4: 9}, 8) == 9  # noise never makes a larger batch smaller
    assert expected_bytes({4: 10}, 8) == 20
    assert expected_bytes({}, 2) == float("inf")


SCRIPT = """
import sys
from yolo_core.engine.batch_size import ProbeRequest, expected_bytes, probe
request = ProbeRequest(variant="yolov5n", num_classes=3, side=128, precision="fp32", optimizer="adamw",
                       device="cpu", most=32)
taken = probe(request).taken
few = {batch: taken[batch] for batch in (2, 4, 8)}
print(expected_bytes(few, 32), taken.get(32, 0), *taken)
"""


def test_three_small_steps_tell_the_memory_of_a_large_one() -> None:
    """In a process of its own, as the peak of this one has many sources."""
    script = SCRIPT.replace("import sys", "import yolo_core.engine.batch_size as b; b._SECONDS = 1e9", 1)
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()
    expected, found = float(out[0]), float(out[1])
    assert out[2:] == ["2", "4", "8", "16", "32"]
    assert 0.8 * found < expected < 1.35 * found
