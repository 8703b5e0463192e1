"""Hand the train stage to a Ray cluster as a job: sent with the code, followed, and stopped from here."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from components.cluster import check_answers, prepare_environment, ray_errors
from components.code import copy_code
from components.workspace import S3_SCHEME
from yolo_core.errors import UnreachableError, UsageError, YoloError

if TYPE_CHECKING:
    from components.runner import StageRequest

_SENT = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "PIPELINE_ORCHESTRATOR",
)
"""Variables that a job gets. Ray writes them to its logs, so none of them may be a secret."""
_KEPT_BACK = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
_STOP_SECONDS = 30
"""What a job gets after the signal to end, to save its state; Ray's default is 3."""
_SILENCE_SECONDS = 20.0
_PATIENCE_SECONDS = 60.0
_ERRORS = {UsageError.exit_code: UsageError, UnreachableError.exit_code: UnreachableError}


def hand_over(request: StageRequest, workspace: str) -> dict[str, Any]:
    """Run the stage as a job of the job server at ``train.ray_address`` and return its result.

    A job of the same request that still runs is followed instead of started again. The job's log goes to
    stderr as it is written. A signal that ends this process stops the job first.

    Args:
        request: what to run; its workspace must be reachable under the same name from the cluster.
        workspace: a folder that the cluster shares, or an s3:// address.

    Raises:
        UnreachableError: nothing answers at the address, or not for a minute while the job runs.
        YoloError: what the job ended with; exit codes 1, 2 and 3 are kept.
    """
    server = JobServer(request.config.ray_address)
    prefix = f"train-{request.variant}-{request.fingerprint[:12]}-{_tail(request.run_id)}-"
    job = server.running(prefix)
    if job is None:
        job = _submit(server, request, workspace, f"{prefix}{time.time_ns() // 10**6:x}")
        sys.stderr.write(f"job {job} is handed to {server.address}\n")
    else:
        sys.stderr.write(f"job {job} already runs on {server.address}; following it\n")
    try:
        output = asyncio.run(_follow(server, job))
        return _result(server.ended(job), output, job)
    except (KeyboardInterrupt, SystemExit):  # the latter is how a termination signal arrives
        sys.stderr.write(f"stopping job {job}\n")
        server.stop(job)
        raise


class JobServer:
    """A client of Ray's job server whose errors are ours."""

    def __init__(self, address: str) -> None:
        """Connect. Raises `UnreachableError` if no job server answers, `UsageError` if it wants a token."""
        self.address = address
        check_answers(address)
        prepare_environment()
        # Ray prefers these to what it is told.
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with self._errors():
            from ray.job_submission import JobSubmissionClient

            self.client = JobSubmissionClient(address)
        _quiet()

    def running(self, prefix: str) -> str | None:
        """Return the id of the latest job that has not ended and whose id begins so."""
        with self._errors():
            jobs = self.client.list_jobs()
        ids = [job.submission_id for job in jobs if not job.status.is_terminal()]
        return max((name for name in ids if name and name.startswith(prefix)), default=None)

    def submit(self, **what: Any) -> str:
        """Send a job; see `ray.job_submission.JobSubmissionClient.submit_job`."""
        with self._errors():
            return str(self.client.submit_job(**what))

    def has_ended(self, job: str) -> bool:
        """Say whether a job runs no more. Raises `UnreachableError` if nothing answers."""
        check_answers(self.address)
        with self._errors():
            return bool(self.client.get_job_status(job).is_terminal())

    def ended(self, job: str, seconds: float = _PATIENCE_SECONDS) -> Any:
        """Wait until a job has ended and return Ray's `JobDetails`."""
        end = time.monotonic() + seconds
        while not self.has_ended(job):
            if time.monotonic() > end:
                raise UnreachableError(f"job {job} on {self.address} does not end; look at its log there")
            time.sleep(0.2)
        with self._errors():
            return self.client.get_job_info(job)

    def stop(self, job: str) -> None:
        """Ask a job to end and wait until it has; what stands in the way is only said."""
        try:
            with self._errors():
                self.client.stop_job(job)
            self.ended(job, 2 * _STOP_SECONDS)
        except YoloError as error:
            sys.stderr.write(f"job {job} may still run: {error}\n")

    def _errors(self) -> AbstractContextManager[None]:
        return ray_errors(self.address)


def _submit(server: JobServer, request: StageRequest, workspace: str, name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="job-") as folder:
        package = Path(folder)
        copy_code(package)
        params = {**request.params, "train": {**request.params["train"], "ray_address": "auto"}}
        (package / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        return server.submit(
            entrypoint=shlex.join(_command(request, workspace)),
            submission_id=name,
            runtime_env={"working_dir": folder, "env_vars": sent_variables(os.environ)},
            metadata={"run_id": request.run_id, "variant": str(request.variant)},
        )


def _command(request: StageRequest, workspace: str) -> list[str]:
    place = workspace if workspace.startswith(S3_SCHEME) else str(Path(workspace).expanduser().resolve())
    command = ["python", "-m", "components", "train", "--variant", str(request.variant)]
    return [*command, "--workspace", place, "--run-id", request.run_id, "--json"]


def sent_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to send along, and say on stderr which ones the cluster must have itself."""
    from components.provenance import git_commit

    sent = {name: environment[name] for name in _SENT if environment.get(name)}
    secret = [name for name in sent if urlsplit(sent[name]).password]
    kept = [name for name in _KEPT_BACK if environment.get(name)] + secret
    if kept:
        sys.stderr.write(
            f"{', '.join(kept)}: not sent along, because Ray would write them to its logs; the cluster's "
            "nodes need them in their own environment\n"
        )
    sent = {name: value for name, value in sent.items() if name not in secret}
    return {**sent, "GIT_COMMIT": git_commit(), "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS)}


async def _follow(server: JobServer, job: str) -> str:
    """Copy the job's log to stderr until it ends; return its last line of JSON, which is its result."""
    result, shown = "", 0
    while True:
        number = 0
        with suppress(UnreachableError):  # whether that is for good is asked below
            async for line in _lines(server, job):
                number += 1
                if number <= shown:
                    continue  # said before the connection broke
                shown = number
                if line.startswith('{"') and _is_result(line):
                    result = line
                else:
                    sys.stderr.write(line + "\n")
                    sys.stderr.flush()
        if await _has_ended(server, job):
            return result


async def _lines(server: JobServer, job: str) -> AsyncIterator[str]:
    """Yield the lines of the job's log from its beginning on."""
    rest = ""
    stream = server.client.tail_job_logs(job)
    async for chunk in _watched(server, stream):
        *lines, rest = (rest + chunk).split("\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def _watched(server: JobServer, stream: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield what a stream does; in silence look whether the server is still there.

    Raises:
        UnreachableError: the stream broke, or nothing answers.
    """
    from aiohttp import ClientError

    while True:
        following = asyncio.ensure_future(anext(stream, None))
        try:
            while not (await asyncio.wait({following}, timeout=_SILENCE_SECONDS))[0]:
                await asyncio.to_thread(check_answers, server.address)
            chunk = following.result()
        except (ClientError, OSError, RuntimeError) as error:
            raise UnreachableError(str(error)) from None
        finally:
            following.cancel()
        if chunk is None:
            return
        yield chunk


async def _has_ended(server: JobServer, job: str) -> bool:
    """Say whether the job has ended; be patient for a while with a server that does not answer."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            ended = await asyncio.to_thread(server.has_ended, job)
        except UnreachableError as error:
            if time.monotonic() > end:
                raise UnreachableError(
                    f"lost job {job}, which may still run ({error}); the same command follows it again"
                ) from None
            await asyncio.sleep(2.0)
        else:
            await asyncio.sleep(0.0 if ended else 1.0)
            return ended


def _is_result(line: str) -> bool:
    with suppress(ValueError):
        found = json.loads(line)
        return isinstance(found, dict) and ("stage" in found or "exit_code" in found)
    return False


def _result(info: Any, output: str, job: str) -> dict[str, Any]:
    """Return the job's result, or raise the error that it ended with."""
    said = json.loads(output) if output else {}
    code = info.driver_exit_code
    if code == 0 and "stage" in said:
        return {**said, "ray_job": job}
    text = said.get("error") or " ".join(str(info.message or "").split())[:300]
    if str(info.status) == "STOPPED":
        raise YoloError(f"job {job} was stopped on the cluster")
    if code is None:
        raise UnreachableError(f"job {job} failed before it ran: {text}")
    raise _ERRORS.get(code, YoloError)(f"job {job} ended with exit code {code}: {text}")


def _tail(run_id: str) -> str:
    """Return the end of a run id with what a job's name may hold."""
    return "".join(letter if letter.isalnum() else "-" for letter in run_id)[-24:]


def _quiet() -> None:
    """Keep Ray's notes on packages and sockets to itself."""
    import logging

    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private"):
        logging.getLogger(name).setLevel(logging.WARNING)
