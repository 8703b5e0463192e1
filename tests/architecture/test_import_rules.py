"""Who may import whom. DESIGN's table, and what must stay out of a command line's start."""

from __future__ import annotations

import sys
from graphlib import CycleError, TopologicalSorter
from typing import Any

import pytest

ORCHESTRATION = ("airflow", "ray", "dvc", "kfp")
CLUSTERS = ("docker", "kubernetes")
# Package -> (what it never imports, anywhere; files that may all the same).
NEVER: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "yolo_core": (
        (*ORCHESTRATION, "mlflow", "boto3", "great_expectations", "components", "pipelines"),
        {},
    ),
    "pipelines": (
        (*ORCHESTRATION, *CLUSTERS, "torch", "mlflow", "yolo_core", "components"),
        {"pipelines.to_airflow": ("airflow", *CLUSTERS), "pipelines.to_kfp": ("kfp",)},
    ),
    "components": (("airflow", "kfp", "dvc"), {}),
    "scripts": (
        ("airflow", "yolo_core", "components", "pipelines"),
        {
            "scripts.airflow": ("pipelines",),  # the pool that the DAGs name
            "scripts.backup": ("yolo_core", "components"),  # transfers, digests and errors are theirs
        },
    ),
}
# A library -> the only modules of components that may import it. One door each: a change of a library's
# interface is then a change in one place.
DOORS = {
    "mlflow": ("components.store", "components.tracking", "components.register", "components.promote"),
    "ray": ("components.cluster", "components.train", "components.study.fan"),
    "great_expectations": ("components.validate",),
    "boto3": ("components.bucket", "components.s3_client"),
}
SHARED = {"tracking"}  # folders of components that belong to no stage: all may import them
# Loaded by `python -m components --help`, by a wrong command line, or by reading a configuration.
LIGHT_ENTRIES = ("components.__main__", "components.cli", "components.config", "components.runner")
LIGHT_PACKAGES = {"yaml"}


def outside(name: str) -> str:
    return name.split(".")[0]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package", NEVER)
def test_package_keeps_to_its_side(package: str, modules: dict[str, Any]) -> None:
    forbidden, excused = NEVER[package]
    broken = [
        f"{module.path}:{item.line} imports {item.name}"
        for module in modules.values()
        if outside(module.name) == package
        for item in module.imports
        if outside(item.name) in forbidden
        and not any(
            within(module.name, door) and outside(item.name) in allowed for door, allowed in excused.items()
        )
    ]
    assert not broken


def test_a_component_never_imports_another(modules: dict[str, Any]) -> None:
    folders = {
        name.split(".")[1] for name in modules if name.startswith("components.") and name.count(".") > 1
    }
    assert {"dataset", "train", "register"} <= folders
    broken = []
    for module in modules.values():
        own = module.name.split(".")
        if own[0] != "components" or len(own) < 2 or own[1] not in folders:
            continue
        for item in module.imports:
            other = item.name.split(".")
            if other[0] == "components" and other[1] in folders - SHARED - {own[1]}:
                broken.append(f"{module.path}:{item.line} imports {item.name}")
    assert not broken


def test_dags_import_airflow_and_pipelines_only(modules: dict[str, Any]) -> None:
    for module in modules.values():
        if outside(module.name) == "dags":
            assert {outside(item.name) for item in module.imports} <= {"__future__", "airflow", "pipelines"}


@pytest.mark.parametrize("library", DOORS)
def test_library_has_one_door(library: str, modules: dict[str, Any]) -> None:
    doors = DOORS[library]
    importers = [
        name for name, m in modules.items() if any(outside(item.name) == library for item in m.imports)
    ]
    assert importers, f"nothing imports {library}: drop it here"
    strangers = [n for n in importers if not any(within(n, door) for door in doors)]
    assert not strangers


def test_no_import_cycles(loads: dict[str, set[str]], modules: dict[str, Any]) -> None:
    ours = {name: {target for target in targets if target in modules} for name, targets in loads.items()}
    for name, targets in ours.items():
        targets.discard(name.rpartition(".")[0])  # a module always imports its package
    try:
        list(TopologicalSorter(ours).static_order())
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_light_modules_load_nothing_heavy(loads: dict[str, set[str]], modules: dict[str, Any]) -> None:
    configs = [name for name in modules if name.startswith("components.") and name.endswith(".config")]
    assert len(configs) >= 8
    for entry in (*LIGHT_ENTRIES, *configs):
        packages = {name for name in reachable(entry, loads) if name not in modules}
        heavy = packages - LIGHT_PACKAGES - set(sys.stdlib_module_names)
        assert not heavy, f"importing {entry} loads {sorted(heavy)}"


def test_pipeline_definition_needs_only_yaml(loads: dict[str, set[str]], modules: dict[str, Any]) -> None:
    packages = {name for name in reachable("pipelines.render", loads) if name not in modules}
    assert packages - set(sys.stdlib_module_names) == {"yaml"}


def test_detector_library_needs_only_what_it_says(modules: dict[str, Any]) -> None:
    """yolo_core travels inside registered models: each package it needs is one that a server must install."""
    packages = {
        outside(item.name)
        for module in modules.values()
        if outside(module.name) == "yolo_core"
        for item in module.imports
        if not item.typing_only
    }
    allowed = {"yolo_core", "torch", "torchvision", "numpy", "cv2", "PIL", "safetensors", "yaml"}
    optional = {"onnx", "onnxruntime", "onnxscript", "openvino", "faster_coco_eval", "matplotlib", "tqdm"}
    assert packages - set(sys.stdlib_module_names) - allowed - optional == set()
    eager = {
        outside(item.name)
        for name, module in modules.items()
        if outside(name) == "yolo_core"
        for item in module.imports
        if item.at_import
    }
    assert eager & optional == set(), "optional packages are imported where they are used"


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Return all that importing a module imports, itself included."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen
