"""Install a registered model's own requirements with pip, nothing else, and predict there.

    python benchmarks/clean_environment.py models:/NAME/VERSION IMAGE [--venv FOLDER]

Prints the seconds of the installation, of loading and of the first prediction, and whether the detections
equal those in this environment. ``--venv`` uses an environment that is there already. The tests do the same
with links in place of pip (tests/components/register/bare_venv.py), because torch alone takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow

from components.store import TrackingConfig, connect, download

CODE = """
import json, pathlib, sys, time
began = time.perf_counter()
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
loaded = time.perf_counter()
found = model.predict([pathlib.Path(sys.argv[2])])[0]
print(json.dumps({"load": loaded - began, "predict": time.perf_counter() - loaded, "found": found}))
"""


def install(folder: Path, requirements: Path) -> float:
    """Make an environment with pip; returns the seconds it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", "-r", requirements], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Install, predict and compare."""
    parser = argparse.ArgumentParser(description="Predict in an environment of a model's own requirements.")
    parser.add_argument("model", help="models:/NAME/VERSION or models:/NAME@ALIAS")
    parser.add_argument("image", type=Path)
    parser.add_argument("--venv", type=Path, help="an environment that is there already")
    options = parser.parse_args()
    connect(TrackingConfig(uri=None, experiment="-"), Path.cwd(), create=False)
    with tempfile.TemporaryDirectory() as scratch:
        files = download(options.model, Path(scratch) / "model")
        venv = options.venv or Path(scratch) / "venv"
        if options.venv is None:
            print(f"install: {install(venv, files / 'requirements.txt'):.0f} s")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
        done = subprocess.run(
            [venv / "bin/python", "-c", CODE, str(files), str(options.image.resolve())],
            cwd=scratch,
            env={**clean, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
            check=True,
            capture_output=True,
            text=True,
        )
        there = json.loads(done.stdout.splitlines()[-1])
        here = mlflow.pyfunc.load_model(str(files)).predict([options.image])[0]
    print(f"load: {there['load']:.1f} s, first prediction: {there['predict']:.2f} s")
    print(f"{len(there['found'])} detections, {'equal' if there['found'] == here else 'OTHER THAN HERE'}")


if __name__ == "__main__":
    main()
