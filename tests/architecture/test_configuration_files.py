"""Files that must agree with the code: params, images, locks, generated files, the public names."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import pipelines
import yolo_core
from components.config import load_section, read_params
from components.runner import SECTIONS, WORK, resolve
from components.store import TrackingConfig
from pipelines import render
from pipelines.stages import STAGES
from yolo_core.model.variants import VARIANTS

LOCKS = {
    "ml": ("ml", "export", "dev"),
    "airflow": ("airflow", "test"),
    "kfp": ("kfp", "test"),
    "sbom": ("sbom",),
}


@pytest.fixture(scope="module")
def params(repo: Path) -> dict[str, Any]:
    return read_params(repo / "params.yaml")


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return loaded


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
def test_section_of_a_stage_loads(stage: str, params: dict[str, Any]) -> None:
    assert load_section(params, stage, resolve(WORK[stage][0]))


def test_other_sections_load(params: dict[str, Any]) -> None:
    assert load_section(params, "promote", resolve("components.promote.config:PromoteConfig"))
    assert load_section(params, "tracking", TrackingConfig)
    assert set(params["variants"]) <= set(VARIANTS)
    assert set(params) == set(SECTIONS)


def test_every_knob_is_explained(repo: Path, params: dict[str, Any]) -> None:
    """A key of params.yaml has a comment there, or is a field that its dataclass' docstring explains."""
    lines = (repo / "params.yaml").read_text(encoding="utf-8").splitlines()
    for section, reference in {name: WORK[name][0] for name in WORK}.items():
        explained = resolve(reference).__doc__ or ""
        for key in params[section]:
            commented = any(line.strip().startswith(f"{key}:") and "#" in line for line in lines)
            assert commented or re.search(rf"\b{key}\b", explained), f"{section}.{key} is explained nowhere"


def test_stages_name_keys_and_code_that_exist(repo: Path, params: dict[str, Any]) -> None:
    for stage in STAGES:
        assert set(stage.params) <= params.keys()
        assert "tracking" not in stage.params, "a change of the MLflow address must re-train nothing"
        assert "airflow" not in stage.params, "nor may a change of how the DAGs run"
        missing = [path for path in stage.code if not (repo / path).exists()]
        assert not missing, f"{stage.name} depends on code that is not there"
        assert stage.name in WORK


def test_every_image_is_a_target_of_the_dockerfile(repo: Path, project: dict[str, Any]) -> None:
    text = (repo / "infra/docker/Dockerfile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE))
    assert {stage.image for stage in STAGES} <= targets
    images = [part for part in text.split("\nFROM ") if "image.title=" in part]
    assert len(images) > len({stage.image for stage in STAGES})
    assert all("\nUSER 10001\n" in image for image in images), "every image runs as a user"
    assert pipelines.IMAGE.endswith(f":{project['version']}")


def test_images_install_what_the_lock_pins(repo: Path) -> None:
    lists = sorted((repo / "infra/docker/packages").glob("*.txt"))
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in lists}
    names = {normal(line) for found in lines.values() for line in found if line[0] not in "#-"}
    assert len(names) > 15
    assert names <= pins(repo / "requirements/ml.txt").keys()
    installs = (repo / "infra/docker/Dockerfile").read_text(encoding="utf-8")
    included = {line.removeprefix("-r ") for found in lines.values() for line in found if line[:3] == "-r "}
    unused = [name for name in lines if f"install.sh {name} " not in installs and name not in included]
    assert not unused


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_pyproject_asks(lock: str, repo: Path, project: dict[str, Any]) -> None:
    held = pins(repo / "requirements" / f"{lock}.txt")
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(item for extra in LOCKS[lock] for item in extras[extra])]
    for requirement in asked:
        name, _, version = requirement.partition("==")
        assert normal(name) in held, f"{requirement} is not in the lock; run `make lock`"
        assert version in ("", held[normal(name)])


def test_locks_hold_plain_pins(repo: Path) -> None:
    for lock in LOCKS:
        lines = (repo / "requirements" / f"{lock}.txt").read_text(encoding="utf-8").splitlines()
        bad = [line for line in lines if line and not re.fullmatch(r"#.*|[\w.-]+==[\w.!]+", line)]
        assert not bad
        assert normal("yolo-mlops") not in pins(repo / "requirements" / f"{lock}.txt")


def test_dvc_file_is_fresh(repo: Path) -> None:
    assert render.stale(render.render_dvc()) == [], "run `make render`"


def test_stale_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    files = {tmp_path / "old": "new", tmp_path / "absent": "new"}
    assert render.stale(files) == list(files)


def test_dvc_sends_nothing_home_and_sees_no_byte_code(repo: Path) -> None:
    assert "analytics = false" in (repo / ".dvc/config").read_text(encoding="utf-8")
    assert "__pycache__/" in (repo / ".dvcignore").read_text(encoding="utf-8")


def test_public_names_of_the_library() -> None:
    assert yolo_core.__all__ == ["VARIANTS", "create_model", "evaluate", "load_checkpoint", "save_checkpoint"]
    for name in yolo_core.__all__:
        assert getattr(yolo_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = yolo_core.nothing


def test_errors_form_one_tree_with_the_exit_codes() -> None:
    from yolo_core import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.YoloError) for kind in kinds)
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "YoloError": 1,
        "UsageError": 2,
        "UnknownVariantError": 2,
        "CheckpointError": 2,
        "DataError": 1,
        "GateError": 1,
        "ToolkitError": 1,
        "NonFiniteLossError": 1,
        "UnreachableError": 3,
    }
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_makefile_has_the_public_targets(repo: Path) -> None:
    text = (repo / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check", "ui", "airflow", "render", "bench", "clean", "lock"):
        assert re.search(rf"^{target}:", text, flags=re.MULTILINE), target


def test_makefile_refuses_an_old_python(repo: Path, tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\necho 'error: Python 3.11 or newer is needed' >&2; exit 1\n")
    old.chmod(0o755)
    for python, code in ((sys.executable, 0), (str(old), 2)):
        made = subprocess.run(
            ["make", "--silent", "python", f"PYTHON={python}"],
            cwd=repo,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == code, made.stderr
        assert code == 0 or "3.11 or newer" in made.stderr


def pins(path: Path) -> dict[str, str]:
    """Return name -> version of a lock."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines}


def normal(name: str) -> str:
    """Return a package's normalised name without extras."""
    return re.sub(r"[-_.]+", "-", re.sub(r"\[.*|[<>=!~].*", "", name)).lower()
