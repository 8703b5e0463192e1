"""What ``lineage`` tells of a version, and what it says is not known."""

from __future__ import annotations

from typing import Any

import pytest

from components.provenance import provenance
from tests.components.promote.conftest import NAME, Registry

ADDRESS = f"models:/{NAME}@challenger"


def version_with_runs(registry: Registry) -> tuple[str, str]:
    """Register a version whose tags name a run of training; returns its number and that run."""
    version = registry.add()
    made_by = {**provenance(), "source.dirty": "yes", "environment.image": "sha256:1"}
    train = registry.client.create_run(
        "0", run_name="train yolov5n", tags={**made_by, "pipeline.attempt": "2"}
    )
    registry.client.set_terminated(train.info.run_id)
    tags = {
        "run.train": train.info.run_id,
        "variant": "yolov5n",
        "dataset.source": "dvc://data@abc/coco",
        "dataset.name": "coco",
        "validation": "passed",
        "pipeline.run_id": "r1",
        "metric.map50": "0.500000",
        "export.onnx.verdict": "PASS",
    }
    for key, value in tags.items():
        registry.client.set_model_version_tag(NAME, version, key, value)
    return version, train.info.run_id


def test_it_goes_from_the_version_to_data_code_runs_and_verdicts(registry: Registry, launch: Any) -> None:
    version, train = version_with_runs(registry)
    found = launch("lineage", ADDRESS, "--json").result
    assert found["model"]["version"] == version and found["model"]["aliases"] == ["challenger"]
    assert found["data"]["source"] == "dvc://data@abc/coco" and found["data"]["validation"] == "passed"
    assert found["code"]["dirty"] == "yes" and found["environment"]["image"] == "sha256:1"
    assert found["stages"]["train"]["mlflow_run"] == train and found["stages"]["train"]["attempt"] == 2
    assert found["exports"] == {"onnx": "PASS"} and found["metrics"] == {"map50": 0.5}
    missing = found["missing"]
    assert "no run of the stage study" in missing and "no run of the stage train" not in missing
    assert any("differed from commit" in lack for lack in missing)
    assert "no promotions" in missing and "no exports" not in missing


def test_text_ends_with_what_is_missing(registry: Registry, launch: Any) -> None:
    version_with_runs(registry)
    done = launch("lineage", ADDRESS)
    lines = done.out.splitlines()
    assert "model:" in lines and any("source: dvc://data@abc/coco" in line for line in lines)
    assert lines[-1].startswith("missing: ")


def test_who_promoted_it_is_told(registry: Registry, launch: Any) -> None:
    version, _ = version_with_runs(registry)
    assert launch("promote", "--model", NAME, "--approve-by", "ada", "--reason", "first").code == 0
    (promotion,) = launch("lineage", f"models:/{NAME}@champion", "--json").result["promotions"]
    assert (promotion["who"], promotion["reason"], promotion["after"]) == ("ada", "first", version)


def test_runs_and_evidence_that_are_gone_are_missing_not_an_error(registry: Registry, launch: Any) -> None:
    version = registry.add(evidence=False)
    registry.client.set_model_version_tag(NAME, version, "run.train", "0" * 32)
    done = launch("lineage", f"models:/{NAME}/{version}", "--json")
    assert done.code == 0
    assert {"no run of the stage train", "no params", "data: no source"} <= set(done.result["missing"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"models:/{NAME}@nobody", "no model at"),
        (f"models:/{NAME}/99", "no model at"),
        ("models:/stranger@champion", "no model at"),
        (NAME, "must be models:/NAME@ALIAS"),
    ],
)
def test_an_address_of_nothing_is_refused(registry: Registry, launch: Any, address: str, said: str) -> None:
    registry.add()
    done = launch("lineage", address)
    assert done.code == 2 and said in done.err
