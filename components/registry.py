"""Addresses of registered models: ``models:/NAME@ALIAS`` and ``models:/NAME/VERSION``."""

from __future__ import annotations

from typing import Any

from components.store import mlflow_errors
from yolo_core.errors import UsageError

REGISTRY = "models:/"


def find_version(client: Any, address: str) -> Any:
    """Return the `mlflow.entities.model_registry.ModelVersion` that an address names.

    Raises:
        UsageError: it is no such address, or there is no such model, version or alias.
        UnreachableError: MLflow does not answer.
    """
    model, at, alias = address.removeprefix(REGISTRY).partition("@")
    with mlflow_errors(str(client.tracking_uri), missing=f"no model at {address}"):
        if at and model and alias:
            return client.get_model_version_by_alias(model, alias)
        name, slash, version = model.rpartition("/")
        if not address.startswith(REGISTRY) or not slash or not version.isdigit() or at:
            raise UsageError(f"{address} must be models:/NAME@ALIAS or models:/NAME/VERSION")
        return client.get_model_version(name, version)
