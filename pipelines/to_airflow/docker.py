"""A stage as a Docker container on the machine of the task."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowFailException
from docker.errors import NotFound
from docker.types import DeviceRequest, Mount

from pipelines.settings import S3_SCHEME, AirflowSettings
from pipelines.stage import Stage
from pipelines.to_airflow.backends import COMMAND, image_of, last_result, params_words
from pipelines.to_airflow.links import DataDocsLink, MlflowLink
from pipelines.to_airflow.operators import FINAL_CODES, kept_of_stage, stage_named, stage_words
from pipelines.to_airflow.place import container_environment, workspace

_INSIDE = "/work"  # where the image expects a local workspace


def options_of(stage: Stage, settings: AirflowSettings) -> dict[str, Any]:
    """Return what a stage's container may use."""
    resources = stage.resources
    gpus = [DeviceRequest(count=resources.gpu, capabilities=[["gpu"]])] if resources.gpu else None
    return {
        "image": image_of(stage, settings),
        "cpus": resources.cpu,
        "mem_limit": f"{resources.memory_gib:g}g",
        "shm_size": int(resources.shm_gib * 2**30) or None,
        "device_requests": gpus,
        "mounts": [
            Mount(target=target, source=source, type="bind", read_only=True)
            for target, source in settings.mounts.items()
        ],
    }


class DockerStageOperator(DockerOperator):  # type: ignore[misc]
    """Runs one stage in its image, as the user of this process, without privileges.

    The environment is given to Docker's API by value, never in the command and in no template field. A
    container that an earlier try left behind is stopped first: it is found by its name.
    """

    template_fields: Sequence[str] = ("variant",)
    template_ext: Sequence[str] = ()
    mounts: list[Mount]
    operator_extra_links = (MlflowLink(), DataDocsLink())

    def __init__(self, *, stage: str, variant: str | None = None, **options: Any) -> None:
        """``stage`` is its name in STAGES."""
        fixed = {"mount_tmp_dir": False, "auto_remove": "force", "privileged": False}
        super().__init__(**{**options, **fixed})
        self.stage = stage
        self.variant = variant
        self.result: Mapping[str, Any] | None = None

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the container to its end."""
        self.prepare(context)
        self._remove_left_behind()
        try:
            self.result = last_result(super().execute(context))
        except DockerContainerFailedException as error:
            self.result = last_result((error.logs or [None])[-1])
            code = re.search(r"'StatusCode': (\d+)", str(error))
            if code and int(code[1]) in FINAL_CODES:
                reason = (self.result or {}).get("error", "the message above says why")
                raise AirflowFailException(f"exit code {code[1]}: {reason}; not tried again") from None
            raise
        return kept_of_stage(self.result)

    def prepare(self, context: Mapping[str, Any]) -> None:
        """Set command, environment and mounts for this run: after templates were rendered, so none is."""
        environment = container_environment()
        if not environment.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")):
            raise AirflowFailException(
                "containers need MLFLOW_TRACKING_URI=http://HOST:PORT that they can reach"
            )
        place = workspace(context["run_id"])
        if not place.startswith(S3_SCHEME):
            self.mounts = [
                *self.mounts,
                Mount(target=_INSIDE, source=str(Path(place).resolve()), type="bind"),
            ]
            place = _INSIDE
            if os.getuid():
                self.user = f"{os.getuid()}:{os.getgid()}"
                environment["HOME"] = "/tmp"
        words = stage_words(self.stage, self.variant, context, place)
        sections = params_words(stage_named(self.stage))
        self.command = [*COMMAND, words[0], *sections, *words[1:], "--json"]
        self._private_environment = environment
        identity = "\n".join((self.dag_id, context["run_id"], self.stage, self.variant or ""))
        self.container_name = f"yolo-mlops-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    def _remove_left_behind(self) -> None:
        try:
            self.cli.stop(self.container_name, timeout=30)
            self.cli.remove_container(self.container_name, force=True)
        except NotFound:
            return
        self.log.info("stopped the container that an earlier try had left behind")
