"""dvc.yaml as DVC itself understands it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import render
from pipelines.stage import Stage
from pipelines.stages import STAGES
from pipelines.to_dvc import to_dvc


def body(document: dict[str, Any], name: str) -> dict[str, Any]:
    entry: dict[str, Any] = document["stages"][name]
    return entry.get("do", entry)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(to_dvc(STAGES))
    return loaded


def test_every_declared_path_is_there(document: dict[str, Any]) -> None:
    assert list(document["stages"]) == [stage.name for stage in STAGES]
    for stage in STAGES:
        entry = body(document, stage.name)
        plots = [next(iter(plot)) if isinstance(plot, dict) else plot for plot in entry.get("plots", [])]
        filled = stage.resolve((*stage.inputs, *stage.code), "${item}")
        assert entry.get("deps", []) == list(filled)
        assert entry["params"] == list(stage.params)
        assert [*entry.get("outs", []), *entry.get("metrics", []), *plots] == list(
            stage.resolve(stage.writes, "${item}")
        )


def test_variants_come_from_params_and_are_nowhere_written(document: dict[str, Any]) -> None:
    assert "yolov5" not in yaml.safe_dump(document)
    for stage in STAGES:
        assert document["stages"][stage.name].get("foreach") == ("${variants}" if stage.foreach else None)
    assert body(document, "train")["cmd"] == "python -m components train --variant ${item}"
    assert body(document, "compare")["cmd"] == "python -m components compare"


def test_stage_without_inputs_or_plots_has_no_empty_lists() -> None:
    lone = Stage(name="lone", outputs=("x",), params=("p",), code=("c",), image="data")
    assert yaml.safe_load(to_dvc([lone])) == {
        "stages": {
            "lone": {"cmd": "python -m components lone", "deps": ["c"], "params": ["p"], "outs": ["x"]}
        }
    }


def test_plots_have_axes_that_their_files_have(document: dict[str, Any], repo: Path) -> None:
    from components.study.compare.stage import COLUMNS

    (curve,) = body(document, "train")["plots"]
    assert curve == {"reports/train/${item}.csv": {"x": "epoch", "y": "map50"}}
    ((_, axes),) = body(document, "compare")["plots"][0].items()
    assert {axes["x"], axes["y"]} <= set(COLUMNS)


def test_header_says_where_it_comes_from() -> None:
    assert to_dvc(STAGES).startswith("# Generated from pipelines/stages.py by `make render`")


def test_check_tells_fresh_from_stale(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    assert render.main(["dvc", "--check"]) == 0
    monkeypatch.setattr(render, "REPO", tmp_path)
    assert render.main(["dvc", "--check"]) == 1
    assert "dvc.yaml is stale; run `make render`" in capsys.readouterr().err
    assert not (tmp_path / "dvc.yaml").exists(), "--check changes nothing"
    assert render.main(["dvc"]) == 0
    assert render.main(["dvc", "--check"]) == 0
    with pytest.raises(SystemExit):
        render.main(["helm"])
