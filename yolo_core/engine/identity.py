"""What a training is: the settings that decide its result, and how two trainings differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from yolo_core.engine.settings import TrainSettings, settings_document

_BESIDE_THE_POINT = ("loader_threads", "checkpoint_steps")
"""Settings that change when and how fast something is computed, but not what."""


def deciding_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide the result, as JSON values.

    The checkpoint to start from is not among them: its path says nothing, see its content.
    """
    document = settings_document(settings)
    for name in (*_BESIDE_THE_POINT, "pretrained"):
        del document[name]
    normal: dict[str, Any] = json.loads(json.dumps(document))
    return normal


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in which entries two JSON objects differ, such as ``lr0 0.01 -> 0.02``; in nested ones too."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after)
        elif before != after:
            found.append(f"{key} {_short(before)} -> {_short(after)}")
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
