"""A throw-away PostgreSQL on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.mlflow_server import free_port

NAME = "yolo"
START_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Database:
    """A cluster, its superuser, and an empty database in it."""

    port: int
    password: str
    user: str = NAME
    name: str = "airflow"

    @property
    def address(self) -> str:
        """What SQLAlchemy connects to."""
        return f"postgresql+psycopg2://{self.user}:{self.password}@127.0.0.1:{self.port}/{self.name}"

    def run(self, program: str, *words: str) -> str:
        """Run a client such as pg_dump on the server; returns what it prints."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", self.user]
        env = {**os.environ, "PGPASSWORD": self.password}
        command = [_program(program), *address, *words]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


@contextmanager
def cluster(database: Database) -> Iterator[None]:
    """Run a cluster in a folder of its own, without databases, and remove it at the end.

    PostgreSQL refuses to run as root: a root's runs as the user ``postgres``, which its package makes.
    """
    with tempfile.TemporaryDirectory(prefix="yolo-mlops-postgres-") as place:
        folder, data = Path(place), Path(place, "data")
        file = folder / "password"
        file.touch(mode=0o600)
        file.write_text(database.password)
        if os.geteuid() == 0:
            for path in (folder, file):
                shutil.chown(path, "postgres", "postgres")
        words = ["initdb", "-D", str(data), "-U", database.user, "-A", "scram-sha-256", f"--pwfile={file}"]
        subprocess.run(_words(words), check=True, stdout=subprocess.DEVNULL, cwd=folder)
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        words = ["postgres", "-D", str(data), "-p", str(database.port)]
        words += [word for setting in settings for word in ("-c", setting)]
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(_words(words), stdout=log, stderr=log, cwd=folder)
        try:
            _wait(server, database, folder / "server.log")
            yield
        finally:
            server.send_signal(signal.SIGINT)  # fast: it disconnects its clients
            server.wait(30)


@contextmanager
def postgres() -> Iterator[Database]:
    """Run a cluster with one database and a generated password."""
    database = Database(port=free_port(), password=secrets.token_urlsafe(12))
    with cluster(database):
        database.run("createdb", database.name)
        yield database


def _words(command: Sequence[str]) -> list[str]:
    words = [_program(command[0]), *command[1:]]
    if os.geteuid() != 0:
        return words
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *words]


def _program(name: str) -> str:
    """Return a program's path; Debian keeps PostgreSQL's off the PATH."""
    debian = os.pathsep.join(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{debian}")
    if found is None:
        pytest.skip("needs PostgreSQL: scripts/debian_packages.sh installs it")
    return found


def _wait(server: subprocess.Popen[bytes], database: Database, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(database.port)]
    while subprocess.run(ready, check=False).returncode != 0:
        assert server.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.2)
