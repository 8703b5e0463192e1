"""The trigger form of the retrain DAG: what it accepts, and what a filled one changes of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import yaml
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from pipelines.stages import VARIANTS
from pipelines.to_airflow.assets import DATASET

PRESETS = ("auto", "v6.0-low", "v6.0-scratch", "v6.0-high", "v6.0-finetune")
ASK, AUTOMATICALLY, NO = "ask", "automatically", "no"
# In the dialects of Python and of browsers alike; Python's $ would let a last line break pass.
END = r"(?![\s\S])"
PRINTABLE = rf"^[^\x00-\x1f\x7f]+{END}"
_TEXT = {"type": ["null", "string"], "minLength": 1, "maxLength": 1000, "pattern": PRINTABLE}
_COUNT = {"type": ["null", "integer"], "minimum": 1}
_LONGEST = 20_000  # characters of one argument; Linux takes no more than 131,071

# Entry of the form -> (key of params.yaml, what Airflow accepts). Null keeps what params.yaml says.
FORM: dict[str, tuple[str, dict[str, Any]]] = {
    "source": (
        "dataset.source",
        {
            **_TEXT,
            "title": "Dataset",
            "description": "builtin, the path of a COCO, YOLO or VOC folder, s3://BUCKET/PREFIX, "
            "dvc://REPO@REV/PATH or mlflow://RUN_ID",
        },
    ),
    "revision": (
        "",
        {
            **_TEXT,
            "pattern": rf"^\w[\w./+-]*{END}",
            "title": "Dataset revision",
            "description": "tag, branch or commit: the REV of dvc://REPO@REV/PATH",
        },
    ),
    "preset": ("train.preset", {"enum": [None, *PRESETS], "title": "Recipe"}),
    "pretrained": (
        "train.pretrained",
        {**_TEXT, "title": "Start from", "description": "a checkpoint, or models:/NAME@champion"},
    ),
    "epochs": ("train.epochs", {**_COUNT, "title": "Epochs"}),
    "image_size": (
        "train.image_size",
        {"type": ["null", "integer"], "minimum": 32, "multipleOf": 32, "title": "Image size, pixels"},
    ),
    "batch_size": ("train.batch_size", {**_COUNT, "title": "Batch size"}),
    "workers": ("train.workers", {**_COUNT, "title": "Training workers"}),
    "overrides": (
        "",
        {
            "type": ["null", "object"],
            "title": "Other settings",
            "description": 'keys of params.yaml, such as {"export.formats": ["onnx"]}',
        },
    ),
}
FIELDS = ("variants", "promote", *FORM)
# Keys that whoever triggers a run cannot set: places outside of the run's folder, addresses, and the gate.
FIXED = (
    "airflow",
    "promote",
    "tracking",
    "dataset.downloads",
    "dataset.coco2017_url",
    "train.storage",
    "train.ray_address",
    "study.storage",
    "study.ray_address",
    "search",
)


def trigger_form() -> dict[str, Param]:
    """Return the typed params of the retrain DAG."""
    form = {name: Param(None, **schema) for name, (_, schema) in FORM.items()}
    variants = Param(
        ["yolov5n"],
        type="array",
        items={"type": "string", "enum": list(VARIANTS)},
        examples=list(VARIANTS),
        minItems=1,
        title="Model variants",
    )
    promote = Param(
        ASK,
        enum=[ASK, AUTOMATICALLY, NO],
        title="Promotion",
        description="of a model that passes the gate: ask a person, automatically, or no",
    )
    return {"variants": variants, **form, "promote": promote}


def filled_form(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's form, with the dataset of the asset event that started it where the form names none.

    Raises:
        AirflowFailException: it has an unknown key, or a value that may not be set or makes no sense.
    """
    params = dict(context["params"])
    dag_run = context.get("dag_run")
    unknown = sorted(set(getattr(dag_run, "conf", None) or {}) - set(FIELDS))
    if unknown:
        raise AirflowFailException(f"unknown conf keys {', '.join(unknown)}; known: {', '.join(FIELDS)}")
    events = list((context.get("triggering_asset_events") or {}).get(DATASET, ()))
    if events and params.get("source") is None and params.get("revision") is None:
        extra = events[-1].extra or {}
        strange = sorted(set(extra) - {"source", "revision", "from_rest_api"})
        if strange:
            raise AirflowFailException(f"dataset event has unknown keys {', '.join(strange)}")
        given = {key: extra[key] for key in ("source", "revision") if extra.get(key) is not None}
        for key, value in given.items():
            if not isinstance(value, str) or not re.fullmatch(FORM[key][1]["pattern"], value):
                raise AirflowFailException(f"dataset event: {key} {value!r} is no such thing")
        params |= given
    return params


def overrides(params: Mapping[str, Any], source: str = "builtin") -> list[str]:
    """Return what a filled form changes, as ``KEY=VALUE`` of ``--set``; ``source`` is that of params.yaml.

    Raises:
        AirflowFailException: a value may not be set or makes no sense.
    """
    chosen = {key: params.get(name) for name, (key, _) in FORM.items() if key}
    changed = {key: value for key, value in chosen.items() if value is not None}
    others = params.get("overrides") or {}
    for key in others:
        _check_key(key)
    changed |= others
    if params.get("revision") is not None:
        changed["dataset.source"] = at_revision(changed.get("dataset.source", source), params["revision"])
    place = str(changed.get("dataset.source", ""))
    if "://" not in place and ".." in place.split("/"):
        raise AirflowFailException(f"source: a path may not go up with .., as {place!r} does")
    changed["variants"] = list(params["variants"])
    words = [f"{key}={one_line(value)}" for key, value in changed.items()]
    if any(len(word) > _LONGEST for word in words):
        raise AirflowFailException(f"a setting is longer than {_LONGEST} characters")
    return words


def at_revision(source: str, revision: str) -> str:
    """Return dvc://REPO@REV/PATH with another REV."""
    parts = re.fullmatch(r"(dvc://.+@)([^/@]+)(/.*)", source)
    if parts is None:
        raise AirflowFailException(f"revision: only dvc://REPO@REV/PATH has one, not {source!r}")
    return f"{parts[1]}{quote(revision, safe='')}{parts[3]}"


def one_line(value: Any) -> str:
    """Return YAML that reads back as the same value; JSON would not do: 1e-05 is text in YAML."""
    return yaml.safe_dump([value], default_flow_style=True, width=10**9).strip()[1:-1]


def _check_key(key: str) -> None:
    """Refuse a key of ``overrides`` that is not ``section.key`` of what may be set."""
    if not re.fullmatch(r"[a-z]\w*(\.[\w.-]+)+", key):
        raise AirflowFailException(f"overrides: {key!r} is not written section.key")
    if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
        raise AirflowFailException(f"overrides: {key} is set in params.yaml only")
