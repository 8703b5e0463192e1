"""A throw-away Docker engine, which builds and runs the images of infra/docker/Dockerfile without a registry.

Standard library only: the tests of every environment import it. What it makes is kept in .engine/ of the
repository, so that the next process finds base image, wheels and built images; the folder may be removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HOME = REPO / ".engine"
DOCKER = "/usr/bin/docker"  # Debian's client; another one first on PATH may lack BuildKit
BASE = "local/python-base:slim"
BASE_PYTHON = "3.11"  # what Debian bookworm has
NEEDED = (DOCKER, "/usr/sbin/dockerd", "/usr/bin/mmdebstrap")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
IMAGE = "yolo-mlops-test"
START_SECONDS, LOCK_SECONDS, BUILD_SECONDS = 60, 900, 1200
# What each target installs: infra/docker/packages/NAME.txt. The other targets are not built by tests.
LISTS = {"data": ("data",), "train-cpu": ("train",)}


class EngineMissingError(Exception):
    """This machine or user cannot run a Docker engine; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running dockerd."""

    host: str

    def docker(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run the client; the caller looks at the exit code."""
        env = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        command = [DOCKER, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)

    def must(self, *words: str, timeout: float = 600) -> str:
        """Run the client and return what it prints; fails with what it says."""
        done = self.docker(*words, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"docker {' '.join(words)}: exit {done.returncode}\n{done.stderr[-6000:]}")
        return done.stdout

    def build(self, target: str, *, context: Path = REPO, tag: str | None = None) -> str:
        """Build a target of the Dockerfile, or find it built; returns the image's name."""
        tag = tag or f"{IMAGE}-{target}:tests"
        with wheelhouse(LISTS[target]) as pip_conf:
            file = str(context / "infra/docker/Dockerfile")
            words = ["--network", "host", "--build-arg", f"BASE={BASE}", "--secret", f"id=pip,src={pip_conf}"]
            words += ["--target", target, "--tag", tag, "--file", file, str(context)]
            self.must("build", *words, timeout=BUILD_SECONDS)
        return tag

    def run(
        self,
        image: str,
        *words: str,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a container to its end on the host's network; ``options`` are those of `docker run`."""
        given = [word for key, value in (env or {}).items() for word in ("--env", f"{key}={value}")]
        return self.docker(
            "run", "--rm", "--network", "host", *given, *options, image, *words, timeout=timeout
        )


@contextmanager
def engine() -> Iterator[Engine]:
    """Run an engine with the base image; a second process waits until the first has stopped its own."""
    missing = [name for name in NEEDED if not Path(name).exists()]
    if os.geteuid() or missing:
        lack = f"{', '.join(missing)} missing" if missing else "only root runs a Docker engine"
        raise EngineMissingError(f"{lack}; scripts/debian_packages.sh installs what is needed, as root")
    HOME.mkdir(exist_ok=True)
    with _locked(HOME / "lock"), _daemon() as running:
        if running.docker("image", "inspect", BASE).returncode:
            _import_base(running)
        yield running


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"another process has held {path} for {LOCK_SECONDS} s") from None
                time.sleep(0.5)
        yield


@contextmanager
def _daemon() -> Iterator[Engine]:
    """Run dockerd without a bridge: containers use the host's network. Its sockets need a short path."""
    pid_file = HOME / "dockerd.pid"
    _stop_left_behind(pid_file)
    # The same folder for all of this repository, so that what a killed process left in it is found.
    place = Path(tempfile.gettempdir(), f"engine-{hashlib.sha256(bytes(HOME)).hexdigest()[:8]}")
    _remove(place)
    place.mkdir(mode=0o700)
    with (HOME / "dockerd.log").open("wb") as log:
        socket = f"unix://{place}/docker.sock"
        command = ["/usr/sbin/dockerd", "--data-root", str(HOME / "docker"), "--exec-root", f"{place}/exec"]
        command += ["--pidfile", str(pid_file), "--host", socket, "--storage-driver", "overlay2"]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            running = Engine(host=socket)
            _wait_until_ready(running, process)
            yield running
        finally:
            _stop(process)
            _remove(place)


def _remove(place: Path) -> None:
    """Remove the folder; dockerd leaves the namespace of the host's network mounted in its exec root."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if (mounted := line.split()[1]).startswith(f"{place}/"):
            subprocess.run(["umount", mounted], check=True, timeout=30)
    if place.exists():
        shutil.rmtree(place)


def _wait_until_ready(running: Engine, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while running.docker("version").returncode:
        if process.poll() is not None or time.monotonic() > end:
            said = (HOME / "dockerd.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"dockerd did not start:\n{said}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=30)


def _stop_left_behind(pid_file: Path) -> None:
    """Stop the engine of a process that was killed: two must not share a data root."""
    if not pid_file.exists():
        return
    process = Path("/proc", pid_file.read_text().strip())
    end = time.monotonic() + 60
    while process.exists() and str(HOME) in (process / "cmdline").read_text(errors="replace"):
        os.kill(int(process.name), signal.SIGTERM if time.monotonic() < end - 30 else signal.SIGKILL)
        time.sleep(0.5)
        if time.monotonic() > end:
            raise AssertionError(f"dockerd, process {process.name}, does not stop")
    pid_file.unlink(missing_ok=True)


def _import_base(running: Engine) -> None:
    """Make the base image out of Debian's packages: Python with venv, and this machine's certificates."""
    with tempfile.TemporaryDirectory(dir=HOME) as place:
        tar = f"{place}/base.tar"
        # As Debian's slim images: without manuals, and without the perl that merges /usr in an old system.
        command = ["mmdebstrap", "--quiet", "--variant=minbase"]
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
        command += ["--include=usr-is-merged,ca-certificates,python3,python3-venv"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
        command += ['--aptopt=APT::Install-Recommends "false"']
        command += [f"--customize-hook=copy-in {CERTIFICATES} /etc/ssl/certs", "bookworm", tar]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        if done.returncode:
            raise AssertionError(f"mmdebstrap: exit {done.returncode}\n{done.stderr[-4000:]}")
        running.must("import", tar, BASE)


@contextmanager
def wheelhouse(lists: Sequence[str]) -> Iterator[Path]:
    """Serve the wheels of package lists on loopback, got with this machine's pip; yields a pip.conf.

    It is handed to builds as a secret, so that the port of today is part of no cached layer.
    """
    folder = HOME / "wheels"
    _download(folder, lists)
    handler = partial(_Quiet, directory=str(folder))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory(dir=HOME) as place,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file = Path(place, "pip.conf")
        address = f"http://127.0.0.1:{server.server_port}/"
        file.write_text(f"[global]\nno-index = true\nfind-links = {address}\n")
        try:
            yield file
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _download(folder: Path, lists: Sequence[str]) -> None:
    """Fetch wheels with this environment's pip, unless the same lists and locks were fetched before."""
    folder.mkdir(exist_ok=True)
    lock, tool = REPO / "requirements/ml.txt", REPO / "requirements/sbom.txt"
    every = sorted((REPO / "infra/docker/packages").iterdir())
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in (lock, tool, *every))).hexdigest()
    stamp = folder / f".{'-'.join(lists)}-{digest[:16]}"
    if stamp.exists():
        return
    asked = [word for name in lists for word in ("-r", str(REPO / f"infra/docker/packages/{name}.txt"))]
    for words in (["-c", str(lock), *asked], ["-r", str(tool)]):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
        command += ["--only-binary=:all:", "--python-version", BASE_PYTHON, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
        if done.returncode:
            raise AssertionError(f"pip download: exit {done.returncode}\n{done.stderr[-4000:]}")
    stamp.touch()
