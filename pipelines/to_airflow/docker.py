"""A stage as a Docker container on the machine of the task."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowFailException
from docker import APIClient
from docker.errors import NotFound
from docker.types import DeviceRequest, Mount

from pipelines.containers import ADDRESS, SCRATCH, image_of
from pipelines.settings import S3_SCHEME, AirflowSettings
from pipelines.stage import Stage
from pipelines.to_airflow.backends import COMMAND, params_words, result_in
from pipelines.to_airflow.links import DataDocsLink, MlflowLink
from pipelines.to_airflow.operators import final_reason, kept_of_stage, stage_named, stage_words
from pipelines.to_airflow.place import container_environment, workspace

_INSIDE = "/work"  # where the image expects a local workspace
_GRACE_SECONDS = 30  # that a stage gets to save its state; Docker itself would give it ten


def options_of(stage: Stage, settings: AirflowSettings) -> dict[str, Any]:
    """Return what a stage's container may use."""
    resources = stage.resources
    gpus = [DeviceRequest(count=resources.gpu, capabilities=[["gpu"]])] if resources.gpu else None
    return {
        "image": image_of(stage, settings),
        "cpus": resources.cpu,  # the share of a machine that is busy; `locked_down` sets the limit
        "network_mode": settings.network,
        "mem_limit": f"{resources.memory_gib:g}g",
        "shm_size": int(resources.shm_gib * 2**30) or None,
        "device_requests": gpus,
        "mounts": [
            Mount(target=target, source=source, type="bind", read_only=True)
            for target, source in settings.mounts.items()
        ],
    }


def locked_down(client: APIClient, cpus: float) -> APIClient:
    """Return the client, whose containers from now on get what `DockerOperator` has no options for.

    The image is read-only for them, with a volume for temporary files that goes with the container, and they
    have neither capabilities nor a way to get any. Whatever ends the task, its time limit too, the stage has
    some seconds to save its state before its container is removed.

    Args:
        client: of the one operator that it is made for.
        cpus: that a container may use at most.
    """
    client.create_host_config = partial(
        client.create_host_config,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        nano_cpus=int(cpus * 1e9),
    )
    client.create_container = partial(client.create_container, stop_timeout=_GRACE_SECONDS)
    remove_at_once = client.remove_container

    def remove(container: str, **_: Any) -> None:
        try:
            client.stop(container)
        finally:
            remove_at_once(container, v=True, force=True)

    client.remove_container = remove
    return client


class DockerStageOperator(DockerOperator):  # type: ignore[misc]
    """Runs one stage in its image, as a user without capabilities who writes to the workspace and /tmp only.

    That user is the image's; for a workspace that is a folder, the one of this process. The environment is
    given to Docker's API by value, never in the command and in no template field. A container that an
    earlier try left behind is stopped first: it is found by its name.
    """

    template_fields: Sequence[str] = ("variant",)
    template_ext: Sequence[str] = ()
    mounts: list[Mount]
    operator_extra_links = (MlflowLink(), DataDocsLink())

    def __init__(self, *, stage: str, variant: str | None = None, **options: Any) -> None:
        """``stage`` is its name in STAGES."""
        fixed = {"mount_tmp_dir": False, "auto_remove": "force", "privileged": False, "xcom_all": True}
        super().__init__(**{**options, **fixed})
        self.stage = stage
        self.variant = variant
        self.result: Mapping[str, Any] | None = None

    @cached_property
    def cli(self) -> APIClient:
        """The client of Docker's API."""
        return locked_down(super().cli, self.cpus)

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Run the container to its end."""
        self.prepare(context)
        self._remove_left_behind()
        try:
            self.result = result_in(super().execute(context) or ())
        except DockerContainerFailedException as error:
            self.result = result_in(error.logs or ())
            code = re.search(r"'StatusCode': (\d+)", str(error))
            final = final_reason(int(code[1]), self.result) if code else None
            if final:
                raise AirflowFailException(final) from None
            raise
        return kept_of_stage(self.result)

    def on_kill(self) -> None:
        """End the stage; when its time is up Airflow calls this too, but its container is removed by then."""
        with suppress(NotFound):
            super().on_kill()

    def prepare(self, context: Mapping[str, Any]) -> None:
        """Set command, environment and mounts for this run: after templates were rendered, so none is."""
        environment = container_environment()
        if not environment.get(ADDRESS, "").startswith(("http://", "https://")):
            raise AirflowFailException(f"containers need {ADDRESS}=http://HOST:PORT that they can reach")
        place = workspace(context["run_id"])
        self.mounts = [*self.mounts, Mount(target=SCRATCH, source=None, type="volume")]
        if not place.startswith(S3_SCHEME):
            self.mounts.append(Mount(target=_INSIDE, source=str(Path(place).resolve()), type="bind"))
            place = _INSIDE
            self.user = f"{os.getuid()}:{os.getgid()}"
        words = stage_words(self.stage, self.variant, context, place)
        sections = params_words(stage_named(self.stage))
        self.command = [*COMMAND, words[0], *sections, *words[1:], "--json"]
        self._private_environment = environment
        identity = "\n".join((self.dag_id, context["run_id"], self.stage, self.variant or ""))
        self.container_name = f"yolo-mlops-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    def _remove_left_behind(self) -> None:
        try:
            self.cli.remove_container(self.container_name)
        except NotFound:
            return
        self.log.info("stopped the container that an earlier try had left behind")
