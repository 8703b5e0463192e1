"""What a model is known to do badly, or not known to do, as sentences for its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEW_TRAINED = 50  # boxes of a class in training; fewer teach little
FEW_MEASURED = 20  # objects; an AP of fewer says little
_POOR = 0.5  # of the overall AP
_NAMED = 10


def known_limits(document: Mapping[str, Any]) -> list[str]:
    """Return the limits that follow from evidence.json; that nothing else was measured is one of them."""
    evaluation = document["evaluation"]
    overall = evaluation["metrics"].get("coco_ap") or evaluation["intervals"]["coco_ap"]["value"]
    return [
        *_sizes(evaluation["per_size"], overall),
        *_classes(evaluation["per_class"], overall),
        *_conditions(document),
        "Robustness against weather, blur, other cameras and deliberate deception was not measured, nor "
        "fairness between groups of people.",
    ]


def _sizes(sizes: list[Mapping[str, Any]], overall: float) -> list[str]:
    said = []
    for row in sizes:
        size, number, ap = row["size"], row["instances"], row["ap"]
        if not number or ap is None:
            said.append(f"No {size} object was there to measure.")
        elif number < FEW_MEASURED:
            said.append(f"The AP of {size} objects ({ap:.3f}) rests on {number} only.")
        elif ap < overall * _POOR:
            said.append(
                f"Small AP for {size} objects: {ap:.3f}, less than half of the overall {overall:.3f}."
            )
    return said or (["AP by object size was not measured."] if not sizes else [])


def _classes(classes: list[Mapping[str, Any]], overall: float) -> list[str]:
    rare = [row["name"] for row in classes if row["train_instances"] < FEW_TRAINED]
    thin = [row["name"] for row in classes if (row["instances"] or 0) < FEW_MEASURED]
    poor = [
        row["name"]
        for row in classes
        if row["coco_ap"] and row["name"] not in thin and row["coco_ap"]["value"] < overall * _POOR
    ]
    return [
        f"{text}: {_listed(names)}."
        for text, names in (
            (f"Fewer than {FEW_TRAINED} boxes in training", rare),
            (f"Fewer than {FEW_MEASURED} objects to measure on, so the AP says little", thin),
            ("Found badly, at less than half of the overall AP", poor),
        )
        if names
    ]


def _conditions(document: Mapping[str, Any]) -> list[str]:
    data = document["data"]
    said = [f"{data['name'] or 'The dataset'} is all that it was trained and measured on."]
    if not data["validation"]["passed"]:
        said.append("The dataset did not pass its validation.")
    if document["model"]["licence"] is None:
        said.append("Nobody stated a licence of the weights: ask before passing them on.")
    return said


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more
