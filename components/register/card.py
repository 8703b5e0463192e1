"""The model card: what a version is, how good, how fast, where from, and what it is not known to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.provenance import TAG_CODE, TAG_COMMIT, TAG_DIRTY, TAG_IMAGE, TAG_LOCK, TAG_PYTHON
from components.register.blocks import UNSTATED, Block, Pairs, Section, Table, Text, html_of, markdown_of
from components.register.limits import known_limits
from yolo_core.metrics.bootstrap import FEWEST_IMAGES

_INTENDED = (
    "Finding objects of the classes named above in pictures like those of the dataset, as boxes in pixels "
    "with a score. Nobody has stated a use beyond that; for any other pictures, measure first."
)
_DIGITS = 3
# What the study counts as the release does; precision and recall at the score of the best mean F1.
_RELEASE = {"map": "mAP .5:.95", "map50": "mAP .5", "precision": "precision", "recall": "recall"}


def card_text(document: Mapping[str, Any], name: str) -> str:
    """Return the card of evidence.json (see `components.evidence`) as Markdown; ``name`` is the model's."""
    return markdown_of(_title(document, name), _sections(document, name))


def card_page(document: Mapping[str, Any], name: str) -> str:
    """Return the same as an HTML page that needs nothing else."""
    return html_of(_title(document, name), _sections(document, name))


def summary(document: Mapping[str, Any], card: str) -> str:
    """Return a few lines of Markdown for the registry's page of a version; ``card`` is the card's address."""
    evaluation, data = document["evaluation"], document["data"]
    found = evaluation["intervals"]["coco_ap"]
    return (
        f"{document['variant']} on {data['name'] or UNSTATED}: COCO AP {_with_interval(found)} on the "
        f"{evaluation['split']} split at {evaluation['image_size']} px.\n\n"
        f"{len(document['model']['classes'] or ())} classes; {_training_data(document)}.\n\n"
        f"Model card: `{card}`"
    )


def _title(document: Mapping[str, Any], name: str) -> str:
    return f"{name}: {document['variant']} on {document['data']['name'] or UNSTATED}"


def _sections(document: Mapping[str, Any], name: str) -> list[Section]:
    return [
        Section("In short", _overview(document)),
        Section("Use", (Text(_INTENDED), *_loading(name))),
        Section("Limits", [Text(said) for said in known_limits(document)]),
        Section("Data", _data(document)),
        Section("Accuracy", _accuracy(document)),
        Section("Speed", (_speed(document),)),
        Section("Exports", _exports(document)),
        Section("Training", (_training(document),)),
        Section("Lineage", (_lineage(document),)),
    ]


def _overview(document: Mapping[str, Any]) -> tuple[Block, ...]:
    model, evaluation = document["model"], document["evaluation"]
    classes = model["classes"] or []
    return (
        Pairs(
            {
                "Variant": document["variant"],
                "COCO AP, with 95 % interval": _with_interval(evaluation["intervals"]["coco_ap"]),
                "Parameters": _count(model["parameters"]),
                "GFLOPs at 640 px": model["gflops_640"],
                "Classes": f"{len(classes)}: {', '.join(classes)}" if classes else None,
                "Trained on": _training_data(document),
                "Licence of the weights": model["licence"],
                "Weights": document["model_digest"],
            }
        ),
    )


def _training_data(document: Mapping[str, Any]) -> str:
    train = document["data"]["splits"].get("train")
    return (
        f"{train['images']} images with {train['boxes']} boxes" if train else f"number of images {UNSTATED}"
    )


def _loading(name: str) -> tuple[Block, ...]:
    code = (
        "import mlflow\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}@champion")\n'
        'print(model.predict([open("photo.jpg", "rb").read()], params={"conf": 0.25}))'
    )
    return (Text(code, code=True),)


def _data(document: Mapping[str, Any]) -> tuple[Block, ...]:
    data = document["data"]
    validation = data["validation"]
    failed = [f"{row['rule']} ({row['severity']}, {row['failed']})" for row in validation["failed_rules"]]
    splits = tuple(
        (split, counts.get("images"), counts.get("boxes")) for split, counts in data["splits"].items()
    )
    return (
        Pairs(
            {
                "Name": data["name"],
                "Source": data["source"],
                "DVC revision": data["revision"],
                "Digest": data["digest"],
                "Validation": "passed" if validation["passed"] else "failed",
                "Rules that found something": ", ".join(failed) or "none",
                "Images set aside": validation["quarantined_images"],
            }
        ),
        Table(("split", "images", "boxes"), splits),
    )


def _accuracy(document: Mapping[str, Any]) -> tuple[Block, ...]:
    found = document["evaluation"]
    spread, metrics = found["intervals"], found["metrics"]
    rows = [
        ("COCO AP .5:.95", _with_interval(spread["coco_ap"])),
        ("COCO AP .5", _with_interval(spread["coco_ap50"])),
    ]
    rows += [(text, _number(metrics[key])) for key, text in _RELEASE.items() if key in metrics]
    sizes = [(row["size"], row["instances"], _number(row["ap"])) for row in found["per_size"]]
    classes = [
        (
            row["name"],
            row["train_instances"],
            row["instances"],
            _class_ap(row),
            _number(row["recall"]),
        )
        for row in found["per_class"]
    ]
    return (
        Text(
            f"Measured on split {found['split']}, {spread['images']} images, at {found['image_size']} px. "
            f"Intervals hold {spread['level']:.0%} of {spread['resamples']} resamples of the images: they "
            "tell how sure the figure is on pictures of this kind, not on others. mAP, precision and recall "
            "are counted as the release counts them."
        ),
        Table(("figure", "value"), tuple(rows)),
        Table(("object size", "objects", "AP"), tuple(sizes)),
        Table(("class", "boxes in training", f"in {found['split']}", "COCO AP", "recall"), tuple(classes)),
    )


def _speed(document: Mapping[str, Any]) -> Block:
    found = document["evaluation"]
    place = found["environment"]
    where = [str(place[key]) for key in ("gpu", "cpu") if place.get(key)]
    where += [f"{place['threads']} threads"] if place.get("threads") else []
    times = {f"{key.replace('_', ', ')} (ms per image)": value for key, value in found["latency_ms"].items()}
    return Pairs({"Measured on": ", ".join(where) or None, **{k: _number(v, 2) for k, v in times.items()}})


def _exports(document: Mapping[str, Any]) -> tuple[Block, ...]:
    export = document["export"]
    rows = [
        (
            name,
            row["verdict"],
            row.get("precision"),
            _number(row.get("latency_ms"), 2),
            _number(row.get("megabytes"), 1),
            _number(row.get("ap")),
            _number(row.get("ap_difference"), 4),
        )
        for name, row in export["formats"].items()
    ]
    columns = ("format", "verdict", "precision", "ms per image", "MB", "AP", "AP against PyTorch")
    return (
        Table(columns, tuple(rows)),
        Text(f"The backend “best” tries, in this order: {', '.join(export['order'])}."),
    )


def _training(document: Mapping[str, Any]) -> Block:
    training = document["training"]
    recipe, pretrained = training["recipe"], training["pretrained"]
    chosen = ("image_size", "batch_size", "optimizer", "seed", "precision")
    return Pairs(
        {
            "Epochs": training.get("epochs"),
            "Best epoch": training.get("best_epoch"),
            "Started from": (pretrained or {}).get("source") or ("random weights" if recipe else None),
            "Why so": "; ".join(training["reasons"]) or None,
            **{key.replace("_", " ").capitalize(): recipe[key] for key in chosen if key in recipe},
            "Versions": ", ".join(f"{key} {value}" for key, value in training["versions"].items()) or None,
        }
    )


def _lineage(document: Mapping[str, Any]) -> Block:
    found = document["lineage"]
    shown = {"yes": " (with changes)", "no": ""}.get(str(found.get(TAG_DIRTY)), " (changes unknown)")
    return Pairs(
        {
            "Commit": f"{found.get(TAG_COMMIT)}{shown}",
            "Code": found.get(TAG_CODE),
            "Locked packages": found.get(TAG_LOCK),
            "Python": found.get(TAG_PYTHON),
            "Image": found.get(TAG_IMAGE),
            "Params": found["params_digest"],
            "Pipeline run": found["pipeline_run_id"],
            "Orchestrator": found.get("orchestrator"),
            **{f"MLflow run of {stage}": run for stage, run in found.get("runs", {}).items()},
        }
    )


def _with_interval(found: Mapping[str, float] | None) -> str | None:
    if found is None:
        return None
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _class_ap(row: Mapping[str, Any]) -> str | None:
    """Return a class's AP; of few images an interval would be too narrow to be true, so none is given."""
    found = row["coco_ap"]
    if found is None or row["images"] >= FEWEST_IMAGES:
        return _with_interval(found)
    return f"{found['value']:.3f} ({row['images']} image{'s' if row['images'] != 1 else ''})"


def _number(value: float | None, digits: int = _DIGITS) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
