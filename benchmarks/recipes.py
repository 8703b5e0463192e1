"""mAP against wall time of the preset ``auto`` and of the release's ``v6.0-scratch``, side by side.

Run ``python benchmarks/recipes.py [NAME ...] [--seeds 0 1 2]`` from the repository's root. Both recipes train
the same model on the same images for as many epochs; they take turns epoch by epoch, so that whatever else
the machine does slows both. Results stay in ``runs/recipes``; the table and the picture show all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from coco128 import ASSETS, WEIGHTS
from matplotlib.figure import Figure
from timing import progress

from components.config import load_section, override, read_params
from components.train.config import TrainConfig
from components.train.plan import make_plan
from yolo_core.data.coco import open_dataset
from yolo_core.engine.train import Trainer, fitness

matplotlib.use("Agg")  # no display on a server

RECIPES = ("auto", "v6.0-scratch")
VARIANT = "yolov5n"
Results = dict[str, list[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set to train on: where its data come from, and how long and from what to train."""

    source: str
    image_size: int
    epochs: int
    hflip: float
    pretrained: Path | None


TRIALS = {
    "digits": Trial(source="builtin", image_size=192, epochs=60, hflip=0.0, pretrained=None),
    "bccd": Trial(source=str(ASSETS / "bccd_voc"), image_size=320, epochs=30, hflip=0.5, pretrained=WEIGHTS),
    "coco128": Trial(
        source=str(ASSETS / "coco128_yolo"), image_size=320, epochs=30, hflip=0.5, pretrained=WEIGHTS
    ),
}


def materialise(name: str, folder: Path) -> Path:
    """Bring a trial's data into the canonical layout, unless they are there; return their folder."""
    workspace = folder / name
    if not (workspace / "data" / "dataset" / "dataset.json").is_file():
        workspace.mkdir(parents=True, exist_ok=True)
        source = f"dataset.source={TRIALS[name].source}"
        command = [sys.executable, "-m", "components", "dataset", "--workspace", str(workspace)]
        subprocess.run([*command, "--set", source], check=True, stdout=subprocess.DEVNULL)
    return workspace / "data" / "dataset"


def start(trial: Trial, recipe: str, seed: int, data: Path, folder: Path) -> Trainer:
    """Return the training that the train stage would do with this recipe."""
    keys = {
        "preset": recipe,
        "image_size": trial.image_size,
        "epochs": trial.epochs,
        "hflip": trial.hflip,
        "pretrained": "null" if trial.pretrained is None else trial.pretrained,
        "seed": seed,
    }
    params = override(
        read_params(Path("params.yaml")), [f"train.{key}={value}" for key, value in keys.items()]
    )
    dataset = open_dataset(data)
    plan = make_plan(load_section(params, "train", TrainConfig), VARIANT, dataset, Path.cwd())
    if recipe == "auto":
        print("\n".join(plan.reasons))
    return Trainer(plan.settings, dataset, folder)


def measure(name: str, seed: int, data: Path, folder: Path, recipes: Sequence[str]) -> Results:
    """Train with some recipes in turns; return each one's rows of epochs."""
    trial = TRIALS[name]
    trainers = {recipe: start(trial, recipe, seed, data, folder / recipe) for recipe in recipes}
    for rows in zip(*(trainer.epochs() for trainer in trainers.values()), strict=True):
        quality = ", ".join(
            f"{recipe} {row.metrics['map']:.3f}" for recipe, row in zip(trainers, rows, strict=True)
        )
        progress(f"{name}, seed {seed}, epoch {rows[0].epoch + 1}: {quality}")
    progress("")
    return {recipe: trainer.history for recipe, trainer in trainers.items()}


def elapsed(history: list[dict[str, float]]) -> list[float]:
    """Return the seconds from the start to the end of each epoch, its validation included."""
    total, ends = 0.0, []
    for row in history:
        total += row["seconds"]
        ends.append(total)
    return ends


def table(found: dict[str, Results]) -> str:
    """Return a row per training: mAP@.5:.95 and seconds after each quarter, and the epoch that is kept."""
    quarters = " | ".join(f"after {share} %" for share in (25, 50, 75, 100))
    lines = [f"| set, seed | recipe | {quarters} | kept: mAP@.5, mAP |", "|---" * 7 + "|"]
    for name, results in found.items():
        for recipe, history in results.items():
            ends = elapsed(history)
            marks = [len(history) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
            cells = [f"{history[mark]['map']:.3f} ({ends[mark]:.0f} s)" for mark in marks]
            best = max(history, key=lambda row: fitness(row["map50"], row["map"]))
            cells.append(f"{best['map50']:.3f}, {best['map']:.3f}")
            lines.append(f"| {name} | {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, Results], path: Path) -> None:
    """Draw mAP@.5:.95 against wall time, one picture per set with a line per training."""
    names = list(dict.fromkeys(key.partition(",")[0] for key in found))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        for results in (results for key, results in found.items() if key.partition(",")[0] == name):
            for recipe, history in results.items():
                maps, colour = [row["map"] for row in history], f"C{RECIPES.index(recipe)}"
                axes.plot(elapsed(history), maps, color=colour, label=recipe, lw=1.2)
        axes.set(title=name, xlabel="seconds", ylabel="validation mAP@.5:.95", ylim=(0, None))
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        first = dict(zip(labels, handles, strict=True))  # one entry per recipe, not per seed
        axes.legend(first.values(), first.keys())
    figure.savefig(path, dpi=100)


def collect(folder: Path) -> dict[str, Results]:
    """Read all results that lie in a folder, by set and seed."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        name, _, seed = path.stem.rpartition("-")
        found[f"{name}, {seed}"] = json.loads(path.read_text())
    return found


def main() -> None:
    """Train, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description="mAP against wall time, preset auto and v6.0-scratch.")
    parser.add_argument("names", nargs="*", default=["digits"], metavar="NAME", help=", ".join(TRIALS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--picture", type=Path, help="default: recipes.png in the folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        data = materialise(name, arguments.folder)
        for seed in arguments.seeds:
            results = measure(name, seed, data, arguments.folder / name / f"seed-{seed}", arguments.recipes)
            (arguments.folder / f"{name}-{seed}.json").write_text(json.dumps(results))
    found = collect(arguments.folder)
    print(table(found))
    draw(found, arguments.picture or arguments.folder / "recipes.png")


if __name__ == "__main__":
    main()
