"""Time the gates for two versions on 5,000 cached image results: from their evidence on disk to the report.

The evidence is made up with COCO val2017's numbers, as in bootstrap.py: 7.3 truths in an image of 80 classes,
and 230 detections in an image per version. Making it is not timed. Target: 60 s.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bootstrap import CLASSES, detect, draw_truth
from timing import progress

from components.config import load_section, read_params
from components.evidence import open_evidence
from components.promote.case import Candidate
from components.promote.config import PromoteConfig
from components.promote.gates import Question, judge, make_case
from components.promote.page import write_report
from components.promote.rules import PASS, Finding
from yolo_core.metrics.coco_matching import match_images, save_matches

REPO = Path(__file__).resolve().parents[1]


def make_evidence(folder: Path, images: int, seed: int) -> None:
    """Write the evidence of a version; equal seeds of the truths, other detections."""
    rng, luck = np.random.default_rng(0), np.random.default_rng(seed)
    share = np.arange(1, CLASSES + 1) ** -1.0
    share /= share.sum()
    truths = [draw_truth(rng, share) for _ in range(images)]
    found = [detect(luck, truth, share, 230) for truth in truths]
    folder.mkdir()
    names = [f"class {number}" for number in range(CLASSES)]
    save_matches(folder / "matches.npz", match_images(truths, found, CLASSES), {"names": names})
    sizes = [{"size": size, "instances": 9, "ap": 0.3} for size in ("small", "medium", "large")]
    facts: dict[str, Any] = {
        "format": 1,
        "dataset_digest": "sha256:0",
        "data": {"validation": {"passed": True}},
        "evaluation": {"split": "val", "per_size": sizes},
        "export": {"pytorch_latency_ms": 9.0, "formats": {"onnx": {"verdict": "PASS", "latency_ms": 8.0}}},
    }
    (folder / "evidence.json").write_text(json.dumps(facts), encoding="utf-8")


def main() -> None:
    """Make evidence, judge, print seconds and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    images = parser.parse_args().images
    config = load_section(read_params(REPO / "params.yaml"), "promote", PromoteConfig)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in (1, 2):
            progress(f"making the evidence of version {number}")
            make_evidence(folder / str(number), images, number)
        progress("judging")
        began = time.perf_counter(), time.process_time()
        champion, challenger = (Candidate.of(str(n), open_evidence(folder / str(n))) for n in (1, 2))
        ready = Finding(verdict=PASS, text="ready")
        question = Question(model="m", version="2", champion="1", run=ready)
        judgement = judge(question, make_case(challenger, champion, config), config)
        write_report(judgement, folder / "report")
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        progress("")
        for ruling in judgement.rulings:
            print(f"  {ruling.finding.verdict:12} {ruling.rule:12} {ruling.finding.text[:90]}")
        print(
            f"gates for two versions on {images:,} images, {config.resamples:,} resamples: "
            f"{wall:.1f} s, cpu {cpu:.1f} s"
        )


if __name__ == "__main__":
    main()
