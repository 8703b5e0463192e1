"""What the fingerprint of the code sees, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.train import fingerprint
from components.train.fingerprint import code_text, training_code_digest

LOSS = '''
"""Words."""
import torch


class Loss:
    """More words."""

    def __init__(self, gain: float = 0.05) -> None:
        self.gain = gain  # a comment

    def __call__(self, x):
        """Return it."""
        if x.sum() < 0:
            raise ValueError("negative")
        return self.gain * x.mean()
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", ""),
        ('"""More words."""', '"""Other words."""'),
        ('        """Return it."""\n', ""),
        ("import torch\n\n\n", "import torch\n\n\n\n\n"),
        ("self.gain * x.mean()", "(self.gain *\n                x.mean())"),
        ('ValueError("negative")', 'ValueError(f"{x} is negative; make it positive")'),
    ],
)
def test_words_and_layout_change_nothing(old: str, new: str) -> None:
    assert old in LOSS
    assert code_text(LOSS.replace(old, new)) == code_text(LOSS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.05", "0.06"),
        ("x.mean()", "x.sum()"),
        ("self.gain * x", "x * self.gain"),
        ("x.sum() < 0", "x.sum() <= 0"),
        ("self.gain = gain", "self.gain = -gain"),
        ("import torch", "import numpy as torch"),
        ('            raise ValueError("negative")', "            pass"),
    ],
)
def test_a_changed_computation_is_seen(old: str, new: str) -> None:
    assert old in LOSS
    assert code_text(LOSS.replace(old, new)) != code_text(LOSS)


@given(st.integers(), st.integers())
def test_different_numbers_have_different_code(one: int, other: int) -> None:
    assert (code_text(f"x = {one}") == code_text(f"x = {other}")) == (one == other)


def test_all_that_computes_a_training_is_in_it() -> None:
    found = set(fingerprint._modules())
    wanted = "engine.train engine.step engine.ema engine.schedule engine.recipe loss.detection loss.assign"
    wanted += (
        " data.augment data.mosaic data.loader metrics.average_precision metrics.nms model.graph model.layers"
    )
    assert {f"yolo_core.{name}" for name in wanted.split()} <= found
    assert not {name for name in found if name.startswith("yolo_core.export")}
    assert not found & fingerprint._APART
    assert all(fingerprint._is_module(name) for name in fingerprint._APART)


def test_a_changed_loss_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, sources = fingerprint._modules, fingerprint._modules()
    name = "yolo_core.loss.detection"
    changed = {**sources, name: sources[name] + "\nGAIN = 2\n"}
    commented = {**sources, name: sources[name] + "\n# GAIN = 2\n"}
    digests = []
    for modules in (sources, changed, commented):
        monkeypatch.setattr(fingerprint, "_modules", lambda modules=modules: modules)
        digests.append(training_code_digest.__wrapped__())
    assert digests[0] == digests[2] != digests[1]
    monkeypatch.setattr(fingerprint, "_modules", usual)
    assert training_code_digest() == digests[0]


def test_it_is_the_same_in_every_process_and_place(repo: Path, tmp_path: Path) -> None:
    code = "from components.train.fingerprint import training_code_digest as d; print(d())"
    environment = {"PYTHONPATH": str(repo), "PYTHONHASHSEED": "5", "PATH": ""}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == training_code_digest()
