"""States in a folder, as the tests look at them."""

from __future__ import annotations

from pathlib import Path

from yolo_core.engine.checkpoint import TrainingState
from yolo_core.engine.states import FolderFiles, Saving, StateStore


def has_state(folder: Path) -> bool:
    """Say whether a whole state is in a folder."""
    return StateStore(FolderFiles(folder)).newest() is not None


def load_state(folder: Path) -> TrainingState:
    """Read the newest state in a folder."""
    found = StateStore(FolderFiles(folder)).newest()
    assert found is not None, f"no state in {folder}"
    return found[1]


def save_state(folder: Path, state: TrainingState) -> None:
    """Save one more state to a folder."""
    StateStore(FolderFiles(folder)).save(Saving(state=state))
