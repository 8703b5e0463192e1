"""A registered model in MLflow: its aliases, versions and tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.promote.config import check_name
from components.store import TrackingConfig, connect, few_retries, mlflow_errors, redacted
from components.tracking import ALIAS_CHAMPION
from yolo_core.errors import UsageError

CHAMPION, CHALLENGER, PREVIOUS = ALIAS_CHAMPION, "challenger", "previous"


@contextmanager
def asking(client: Any) -> Iterator[None]:
    """Ask MLflow something: its errors become this project's, and it does not try for minutes."""
    with mlflow_errors(str(client.tracking_uri)), few_retries():
        yield


@dataclass(frozen=True, kw_only=True)
class State:
    """A registered model at one moment: which version each alias names, and its tags."""

    aliases: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def champion(self) -> str | None:
        """Version that is champion, if there is one."""
        return self.aliases.get(CHAMPION)


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model of the registry; nothing is remembered, so every call tells how it is now."""

    client: Any
    name: str

    @property
    def uri(self) -> str:
        """Where the registry is."""
        return str(self.client.tracking_uri)

    def state(self) -> State | None:
        """Return its aliases and tags; None if it is not there (any more)."""
        from mlflow.exceptions import MlflowException

        with asking(self.client):
            try:
                found = self.client.get_registered_model(self.name)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        aliases = {alias: str(version) for alias, version in found.aliases.items()}
        return State(aliases=aliases, tags=dict(found.tags))

    def must_be(self) -> State:
        """Return its state; raise `UsageError`, which lists the models there are, if it is not there."""
        state = self.state()
        if state is None:
            with asking(self.client):
                known = self.client.search_registered_models(max_results=1000)
            names = ", ".join(sorted(model.name for model in known)) or "none"
            raise UsageError(
                f"no registered model {self.name!r} in MLflow at {redacted(self.uri)}; known: {names}"
            )
        return state

    def version(self, number: str) -> Any:
        """Return MLflow's entity of a version; raise `UsageError` if there is none of that number."""
        missing = f"model {self.name} has no version {number!r}"
        if not (number.isascii() and number.isdigit()):
            raise UsageError(f"{missing}; name its number")
        with mlflow_errors(self.uri, missing=missing), few_retries():
            return self.client.get_model_version(self.name, number)

    def versions(self) -> set[str]:
        """Return the numbers of all versions."""
        with asking(self.client):
            found = self.client.search_model_versions(f"name = '{self.name}'", max_results=10_000)
        return {str(version.version) for version in found}

    def tag_version(self, number: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with asking(self.client):
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, number, key, value)

    def alias(self, alias: str, number: str | None) -> None:
        """Point an alias at a version; None removes it."""
        with asking(self.client):
            if number is None:
                self.client.delete_registered_model_alias(self.name, alias)
            else:
                self.client.set_registered_model_alias(self.name, alias, number)


def open_model(name: str, tracking: TrackingConfig, root: Path) -> RegisteredModel:
    """Connect to the registry; the model need not be there.

    Raises:
        UsageError: the name is none, or the store cannot serve.
        UnreachableError: MLflow does not answer.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"--model: {error}") from None
    return RegisteredModel(client=connect(tracking, root, create=False), name=name)
