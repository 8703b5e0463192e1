"""The dataset that an earlier run of MLflow read or made, found by the run's id.

The run's dataset input says where the data came from and which content digest they had. They are read from
there again; a dataset of another digest is refused.
"""

from __future__ import annotations

from dataclasses import replace

from components.dataset.config import DatasetConfig
from components.dataset.sources.origin import open_source
from components.dataset.sources.source import Source
from components.tracking import logged_dataset
from yolo_core.errors import UsageError

_SCHEME = "mlflow://"


class _MlflowRun:
    """``mlflow://RUN_ID``."""

    form = "mlflow://RUN_ID"

    def takes(self, address: str) -> bool:
        """Whether it begins so."""
        return address.startswith(_SCHEME)

    def open(self, address: str, config: DatasetConfig) -> Source:
        """Open the source that the run's dataset came from, in the store that the stage tracks in."""
        run_id = address.removeprefix(_SCHEME).strip("/")
        logged = logged_dataset(run_id)
        if self.takes(logged.source):
            raise UsageError(
                f"{address}: that run's dataset came from {logged.source}; give that as dataset.source"
            )
        source = open_source(logged.source, config)
        return replace(source, name=logged.name, digest=logged.digest)


ORIGIN = _MlflowRun()
