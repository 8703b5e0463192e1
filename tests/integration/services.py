"""The services of infra/compose/compose.yaml as processes of this machine.

Commands, environments, health checks and their order are read from that file, what images add from the
Dockerfile, and passwords from what scripts/compose_env.py wrote. Only what processes of one machine cannot
share is changed: names of hosts, ports, folders, and the user.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipelines import IMAGE
from tests.integration.mlflow_server import free_port
from tests.integration.postgres import Database, cluster

POSTGRES = 5432
# What containers each have to themselves, as flags; PORT is a free one.
APART: dict[str, list[str]] = {
    "s3": [
        "-s3.port.grpc=PORT",
        *[f"-{part}.port{kind}=PORT" for part in ("master", "volume", "filer") for kind in ("", ".grpc")],
    ],
    "ray-head": [
        "--node-ip-address=127.0.0.1",
        "--ray-client-server-port=PORT",
        "--dashboard-agent-listen-port=PORT",
        "--dashboard-agent-grpc-port=PORT",
    ],
    "ray-worker": [
        "--node-ip-address=127.0.0.1",
        "--temp-dir=/tmp/ray",  # the head's path, but of this container
        "--dashboard-agent-listen-port=PORT",
        "--dashboard-agent-grpc-port=PORT",
    ],
}
START_SECONDS = 300.0


@dataclass(frozen=True)
class Image:
    """What a target of the Dockerfile gives its containers."""

    environment: dict[str, str]
    healthcheck: list[str]


def read_image(dockerfile: str, target: str) -> Image:
    """Return what the target and those that it is built on say; nothing of an image that is not ours."""
    environment: dict[str, str] = {}
    healthcheck: list[str] = []
    stages = re.split(r"^FROM ", dockerfile.replace("\\\n", " "), flags=re.MULTILINE)
    heads = {stage.splitlines()[0].split(" AS ")[-1]: stage for stage in stages[1:]}
    while target in heads:
        stage = heads[target]
        for line in re.findall(r"^ENV (.*)$", stage, re.MULTILINE):
            environment = {**dict(word.split("=", 1) for word in shlex.split(line)), **environment}
        for line in re.findall(r"^HEALTHCHECK .*?CMD\s+(\[.*\])$", stage, re.MULTILINE):
            healthcheck = healthcheck or ["CMD", *json.loads(line)]
        target = stage.split()[0]
    kept = {key: value for key, value in environment.items() if key not in ("PATH", "HOME", "PYTHONPATH")}
    return Image(kept, healthcheck)


@dataclass(kw_only=True)
class Services:
    """Every service of the file; ``env_folder`` holds what scripts/compose_env.py wrote.

    Volumes, logs and temporary files are below ``folder``, whose path must be short: Ray's sockets lie there.
    ``extra`` is added to every environment.
    """

    repo: Path
    env_folder: Path
    folder: Path
    extra: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def file(self) -> dict[str, Any]:
        """The Compose file."""
        loaded: dict[str, Any] = yaml.safe_load((self.repo / "infra/compose/compose.yaml").read_text())
        return loaded

    @cached_property
    def passwords(self) -> dict[str, str]:
        """The variables that the file names."""
        lines = (self.env_folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @cached_property
    def database(self) -> Database:
        """PostgreSQL and its superuser."""
        password = self.passwords["POSTGRES_PASSWORD"]
        return Database(port=self.port(POSTGRES), password=password, user="postgres", name="postgres")

    def port(self, of_file: int) -> int:
        """Return the free port that stands for one of the file."""
        return self.ports.get(str(of_file)) or self._new_port(str(of_file))

    def _new_port(self, use: str) -> int:
        found = free_port()
        while found in self.ports.values():
            found = free_port()
        self.ports[use] = found
        return found

    def here(self, text: object, name: str = "") -> str:
        """Return a text of the file as it is for a service's process on this machine."""
        published = [
            port.split(":")[-1] for one in self.file["services"].values() for port in one.get("ports", ())
        ]
        ports = "|".join({*published, "6379"})
        names = "|".join(self.file["services"])
        found = str(text).replace("@postgres/", f"@postgres:{POSTGRES}/")
        found = re.sub(rf"(?<![\w.-])(?:{names})(?=:(?:{ports})\b)", "127.0.0.1", found)
        found = re.sub(r"\b(localhost|0\.0\.0\.0)\b", "127.0.0.1", found)
        found = re.sub(rf"\b({ports})\b", lambda match: str(self.port(int(match[0]))), found)
        found = found.replace("10001:10001", f"{os.getuid()}:{os.getgid()}")
        found = re.sub(r"(?<![\w.:/-])(/[\w./-]+)", lambda match: self._place(match[1], name), found)
        variable = r"\$\{(\w+)(?::[?-]([^}]*))?\}"
        return re.sub(variable, lambda match: self.passwords.get(match[1], match[2] or ""), found)

    def _place(self, path: str, name: str) -> str:
        """Return where a path of a service's container is here: volumes are where the file mounts them."""
        if path.startswith("/run/secrets/"):
            file = self.file["secrets"][Path(path).name]["file"]
            secret = self.folder / Path(file).name
            secret.write_text(self.here((self.env_folder / file).read_text()))
            return str(secret)
        places = {
            "/opt/app": self.repo,
            "/opt/venv": self.repo / ".venv",
            "/tmp": self.folder / name,
        }
        for volume in self.file["services"].get(name, {}).get("volumes", ()):
            source, target = volume.split(":")[:2]
            if source in self.file["volumes"]:
                places[target] = self.folder / "volumes" / source
        for start, place in places.items():
            if path == start or path.startswith(f"{start}/"):
                return f"{place}{path.removeprefix(start)}"
        return path

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's environment: of this machine no more than where programs are."""
        service = self.file["services"][name]
        given = {**self._image(name).environment, **service.get("environment", {})}
        venv = self.repo / (".venv-airflow" if "airflow" in name else ".venv") / "bin"
        machine = {
            "PATH": f"{venv}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port(POSTGRES)),
        }
        return {**machine, **{key: self.here(value, name) for key, value in given.items()}, **self.extra}

    def _image(self, name: str) -> Image:
        target = self.file["services"][name]["image"].removeprefix(f"{IMAGE}-")
        return read_image((self.repo / "infra/docker/Dockerfile").read_text(), target)

    def words(self, name: str) -> list[str]:
        """Return the command that a service's container would run."""
        service = self.file["services"][name]
        found: list[str] = []
        for key in ("entrypoint", "command"):
            words = service.get(key, [])
            found += shlex.split(words) if isinstance(words, str) else words
        flags = [flag.replace("PORT", str(self._new_port(name + flag))) for flag in APART.get(name, ())]
        return [self.here(word, name) for word in (*found, *flags)]

    def start(self, *names: str) -> None:
        """Start services, all of the file without names, each after what it depends on."""
        for place in ("logs", *(f"volumes/{name}" for name in self.file["volumes"])):
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        for name in sorted(names or self.file["services"], key=self._depth):
            for needed, how in self._needs(name).items():
                self.start(needed)
                if how["condition"] == "service_healthy":
                    self.wait_until_healthy(needed)
                else:
                    self.wait_until_done(needed)
            if name not in self.started:
                self.started.add(name)
                self._start(name)

    def _needs(self, name: str) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = self.file["services"][name].get("depends_on", {})
        return found

    def _depth(self, name: str) -> int:
        return max((1 + self._depth(needed) for needed in self._needs(name)), default=0)

    def _start(self, name: str) -> None:
        if name == "postgres":
            self._start_postgres()
            return
        (self.folder / name).mkdir(exist_ok=True)
        with (self.folder / "logs" / name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.words(name),
                env=self.environment(name),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_done(self, name: str) -> None:
        """Wait for a service that ends, and start it again as often as the file says."""
        restart = str(self.file["services"][name]["restart"])
        tries = int(restart.split(":")[1]) if restart.startswith("on-failure:") else 0
        while self.running[name].wait(START_SECONDS) != 0:
            assert tries > 0, self.log(name)
            tries -= 1
            self._start(name)

    def _start_postgres(self) -> None:
        """Do as the image's entrypoint does: make a cluster, and run the script of the first start."""
        self.stack.enter_context(cluster(self.database))
        script = next(
            volume.split(":")[0]
            for volume in self.file["services"]["postgres"]["volumes"]
            if "docker-entrypoint-initdb.d" in volume
        )
        environment = {**self.environment("postgres"), "PGPASSWORD": self.database.password}
        words = ["sh", str(self.repo / "infra/compose" / script)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def watched(self) -> list[str]:
        """Return the services with a health check, of their own or their image's."""
        return [name for name in self.file["services"] if self._healthcheck(name)]

    def _healthcheck(self, name: str) -> list[str]:
        service = self.file["services"][name]
        own: list[str] = service.get("healthcheck", {}).get("test", [])
        ends = service.get("restart") != "unless-stopped"
        return own or ([] if ends else self._image(name).healthcheck)

    def healthy(self, name: str) -> bool:
        """Whether a service's health check says so."""
        test = self._healthcheck(name)
        assert test[0] == "CMD", test
        words, environment = [self.here(word, name) for word in test[1:]], self.environment(name)
        done = subprocess.run(words, env=environment, capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    def wait_until_healthy(self, name: str) -> None:
        """Wait for a health check; fails at once if the service ends."""
        end = time.monotonic() + START_SECONDS
        while not self.healthy(name):
            process = self.running.get(name)
            assert process is None or process.poll() is None, self.log(name)
            assert time.monotonic() < end, self.log(name)
            time.sleep(0.5)

    def log(self, name: str) -> str:
        """Return the end of what a service wrote."""
        return f"{name}: {(self.folder / 'logs' / name).read_text(errors='replace')[-3000:]}"

    def destroy(self) -> None:
        """Kill all processes and remove all volumes."""
        processes = []
        for process in self.running.values():
            if process.poll() is None:
                found = psutil.Process(process.pid)
                processes += [found, *found.children(recursive=True)]
        for one in processes:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=30)
        self.running.clear()
        self.started.clear()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # a second time there is none
