"""One run in MLflow, as a stage sees it."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from components.store import check_answers, few_retries, mlflow_errors, redacted
from components.tracking.delivery import deliver
from components.tracking.outbox import Entry, Outbox
from components.tracking.tags import ALIAS_CHAMPION, TAG_ATTEMPT, TAG_DATASET, TAG_STAGE
from yolo_core.errors import UnreachableError

_RETRY_SECONDS = 10.0
_CALL_SECONDS, _UPLOAD_SECONDS = 15, 300


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A registered model's champion: its version, and the digest of the dataset that it was made from."""

    model: str
    version: str
    dataset_digest: str


class Tracker:
    """This stage's run in MLflow.

    Logging never fails because the store is down: entries then wait in the outbox, and a call takes some
    seconds at the most. Only reading raises `UnreachableError`. Calls from several threads take turns.

    Used as a context manager it ends the run: FINISHED, FAILED after an error, KILLED after an interrupt or a
    termination signal.
    """

    def __init__(
        self, *, client: Any, run_id: str, parent_run_id: str, outbox: Outbox, insists: bool = False
    ) -> None:
        """Wrap an open run; `open_run` makes one. One that insists fails in `finish` if entries are left."""
        self._client = client
        self.run_id = run_id
        self.parent_run_id = parent_run_id
        self.uri = str(client.tracking_uri) if client else "none:"
        self._outbox = outbox
        self._insists = insists
        self._turn = threading.RLock()
        self._retry_at = 0.0

    @property
    def parent(self) -> Tracker:
        """The pipeline run, as a tracker: for what concerns more than one stage or variant."""
        return Tracker(
            client=self._client,
            run_id=self.parent_run_id,
            parent_run_id=self.parent_run_id,
            outbox=Outbox(self._outbox.folder.with_name(self.parent_run_id)),
        )

    def nested(self, make: Callable[[Any, Any, Mapping[str, str]], str]) -> Tracker:
        """Return the tracker of a run below this one, marked as running; `nested_run` calls it.

        ``make`` is given the client, and the info and the tags of this run, and returns the id.
        """
        with self._reading():
            own = self._client.get_run(self.run_id)
            run_id = make(self._client, own.info, own.data.tags)
            self._client.update_run(run_id, status="RUNNING")
        return Tracker(
            client=self._client,
            run_id=run_id,
            parent_run_id=run_id,
            outbox=Outbox(self._outbox.folder.with_name(run_id)),
        )

    @property
    def unsent(self) -> int:
        """How many entries of this run wait for the store."""
        return len(self._outbox)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings once; other values in a retry are told by a tag."""
        self._log("params", {key: _text(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, float | int | None], step: int | None = None) -> None:
        """Log numbers in one call per thousand; a metric that is None is left out."""
        known = {key: float(value) for key, value in metrics.items() if value is not None}
        self._log("metrics", {"metrics": known, "step": step or 0})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or all of a folder, into ``folder`` of the run's artifacts."""
        self._log("artifact", {"folder": folder}, path)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log the dataset that this run read as an input, and its whole digest as a tag of run and parent.

        ``context`` is training, validation, ...
        """
        self._log("dataset", {"name": name, "digest": digest, "source": source, "context": context})
        self.tag_dataset(digest)

    def tag_dataset(self, digest: str) -> None:
        """Tag this run and its parent with the dataset's digest."""
        self._log("dataset tag", {"digest": digest, "parent": self.parent_run_id})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of this run."""
        self._log("tags", {key: _text(value) for key, value in tags.items()})

    def flush(self) -> None:
        """Send what waits, unless that was in vain a moment ago; call it now and then in a long stage."""
        with self._turn:
            if self._outbox and time.monotonic() >= self._retry_at:
                waiting = len(self._outbox)
                with self._outage():
                    self._outbox.send(self._deliver)
                    _tell(f"MLflow answers again: sent the {waiting} entries that waited")

    @property
    def began(self) -> float:
        """When this run was made, in seconds since 1970."""
        with self._reading():
            return float(self._client.get_run(self.run_id).info.start_time) / 1000

    def tag(self, name: str) -> str | None:
        """Return a tag of this run, if it has it."""
        with self._reading():
            value: str | None = self._client.get_run(self.run_id).data.tags.get(name)
            return value

    def steps(self, metric: str) -> set[int]:
        """Return the steps at which this run has a metric."""
        with self._reading():
            return {item.step for item in self._client.get_metric_history(self.run_id, metric)}

    def champions(self) -> list[Champion]:
        """Return the champions of all registered models that name a dataset, those changed last first."""
        with self._reading():
            models = self._client.search_registered_models(max_results=1000)
            crowned = [
                self._client.get_model_version(model.name, model.aliases[ALIAS_CHAMPION])
                for model in models
                if ALIAS_CHAMPION in model.aliases
            ]
        crowned.sort(key=lambda version: version.last_updated_timestamp, reverse=True)
        return [
            Champion(model=one.name, version=str(one.version), dataset_digest=one.tags[TAG_DATASET])
            for one in crowned
            if TAG_DATASET in one.tags
        ]

    def find_json(self, stage: str, dataset_digest: str, path: str) -> Any | None:
        """Return a JSON artifact of the experiment's latest run of a stage on a dataset, if there is one."""
        query = f"tags.`{TAG_STAGE}` = '{stage}' and tags.`{TAG_DATASET}` = '{dataset_digest}'"
        with self._reading(), tempfile.TemporaryDirectory() as scratch:
            experiment = self._client.get_run(self.run_id).info.experiment_id
            for run in self._client.search_runs([experiment], query, order_by=["start_time DESC"]):
                listed = self._client.list_artifacts(run.info.run_id, path.rpartition("/")[0] or None)
                if any(item.path == path for item in listed):
                    local = self._client.download_artifacts(run.info.run_id, path, scratch)
                    return json.loads(Path(local).read_text(encoding="utf-8"))
        return None

    def start(self) -> None:
        """Mark the run and its parent as running and count the attempt."""
        attempt = int(self._client.get_run(self.run_id).data.tags.get(TAG_ATTEMPT, "0")) + 1
        self._client.set_tag(self.run_id, TAG_ATTEMPT, str(attempt))
        for run_id in (self.parent_run_id, self.run_id):
            self._client.update_run(run_id, status="RUNNING")

    def finish(self, status: str) -> None:
        """End the run, and its parent if it was the last of it; tell what is still unsent.

        Raises:
            UnreachableError: something is, and the workspace does not outlive this process.
        """
        self._retry_at = 0.0
        self._log("status", {"status": status, "parent": self.parent_run_id})
        if not self._outbox:
            return
        left = f"MLflow at {redacted(self.uri)} does not answer; not sent: {self._outbox.summary()}"
        if self._insists:
            raise UnreachableError(f"{left}; run the stage again when it does")
        _tell(f"warning: {left}; kept in {self._outbox.folder}, and sent by the next stage in this workspace")

    def __enter__(self) -> Self:
        """Return the tracker; its run is already open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run by how the block ended; a store that is down must not hide the error on its way."""
        if kind is None:
            self.finish("FINISHED")
            return
        with suppress(UnreachableError):
            self.finish("KILLED" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "FAILED")

    def _log(self, kind: str, values: dict[str, Any], file: Path | None = None) -> None:
        """Send an entry after those that wait, or let it wait, too."""
        entry = Entry(kind=kind, values=values)
        with self._turn:
            self.flush()
            if not self._outbox:
                with self._outage():
                    self._deliver(entry, file)
                    return
            self._outbox.put(entry, file)

    def _deliver(self, entry: Entry, file: Path | None) -> None:
        # A server that hangs is found out here in some seconds; MLflow itself tries for minutes.
        check_answers(self.uri)
        # An upload gets time until the server has stored it.
        with mlflow_errors(self.uri), few_retries(seconds=_CALL_SECONDS if file is None else _UPLOAD_SECONDS):
            deliver(self._client, self.run_id, entry, file)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._turn, mlflow_errors(self.uri), few_retries():
            yield

    @contextmanager
    def _outage(self) -> Iterator[None]:
        """Note that the store does not answer; the block's remaining work is then left undone."""
        try:
            yield
        except UnreachableError as error:
            if not self._outbox:
                _tell(f"warning: {error}; what is logged waits in {self._outbox.folder} until it answers")
            self._retry_at = time.monotonic() + _RETRY_SECONDS


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)


class NullTracker(Tracker):
    """Tracks nothing: to call a stage's ``run`` from a notebook or a test."""

    def __init__(self) -> None:
        """Take nothing, as there is no run."""
        super().__init__(
            client=None, run_id="untracked", parent_run_id="untracked", outbox=Outbox(Path("untracked"))
        )

    @property
    def parent(self) -> Tracker:
        """Track nothing there either."""
        return self

    @property
    def began(self) -> float:
        """Say that it is now."""
        return time.time()

    def nested(self, make: Callable[[Any, Any, Mapping[str, str]], str]) -> Tracker:
        """Track nothing there either."""
        return self

    def tag(self, name: str) -> str | None:
        """Know none."""

    def steps(self, metric: str) -> set[int]:
        """Know of none."""
        return set()

    def champions(self) -> list[Champion]:
        """Know of none."""
        return []

    def find_json(self, stage: str, dataset_digest: str, path: str) -> Any | None:
        """Find nothing."""

    def start(self) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""

    def _log(self, kind: str, values: dict[str, Any], file: Path | None = None) -> None:
        """Do nothing."""
