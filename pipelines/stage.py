"""What a stage is: inert data, and the order that follows from its paths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

VARIANT = "{variant}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one run of a stage may use on a cluster."""

    cpu: float = 1.0
    memory_gib: float = 2.0
    gpu: int = 0
    shm_gib: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of the pipeline.

    Paths are relative to the workspace; ``{variant}`` in one stands for the model variant of a
    stage that has ``foreach``. ``outputs`` are kept whole by DVC; ``metrics`` and ``plots`` are
    further outputs that it can show. ``params`` names the keys of params.yaml that change the
    result, ``code`` the paths whose change must re-run the stage, ``image`` a Dockerfile target,
    and ``foreach`` the params.yaml key that lists the model variants.
    """

    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    params: tuple[str, ...]
    code: tuple[str, ...]
    image: str
    foreach: str | None = None
    resources: Resources = field(default_factory=Resources)

    @property
    def writes(self) -> tuple[str, ...]:
        """Every path the stage produces."""
        return self.outputs + self.metrics + self.plots

    def command(self, variant: str | None = None) -> tuple[str, ...]:
        """Return the argument list that runs the stage, for one variant if it has ``foreach``."""
        words = ("python", "-m", "components", self.name)
        if self.foreach is None:
            return words
        if variant is None:
            raise ValueError(f"stage {self.name!r} runs per variant: name one")
        return (*words, "--variant", variant)

    def resolve(self, paths: Iterable[str], variant: str | None) -> tuple[str, ...]:
        """Fill the variant into paths."""
        return tuple(path.replace(VARIANT, variant or "") for path in paths)


def upstream(stage: Stage, stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Return the stages whose outputs ``stage`` reads.

    A path feeds another when they are equal or one is a folder that holds the other.
    """
    return tuple(
        other
        for other in stages
        if other.name != stage.name
        and any(_overlap(read, written) for read in stage.inputs for written in other.writes)
    )


def in_order(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Sort stages so that each comes after those it reads from."""
    by_name = {stage.name: stage for stage in stages}
    graph = {name: {up.name for up in upstream(stage, by_name.values())} for name, stage in by_name.items()}
    try:
        return tuple(by_name[name] for name in TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(f"stages feed each other in a circle: {' -> '.join(error.args[1])}") from None


def _overlap(first: str, second: str) -> bool:
    one, two = first.strip("/").split("/"), second.strip("/").split("/")
    shared = min(len(one), len(two))
    return one[:shared] == two[:shared]
