"""A command that outlives the process that started it, and that another process can follow.

A task of an orchestrator may lose its process while the stage that it started goes on: the scheduler was
killed, or the machine's service manager restarted it. The next try finds the stage by its folder:

- ``lock`` is locked (flock) by the command itself for as long as it lives: it inherits the open file. Two
  tries that start at once cannot both get it, and no death leaves it locked.
- ``stdout`` and ``stderr`` are files, so nobody has to read them for the command to go on.
- ``request.json`` says what was asked and by which process id it runs; ``follower`` names who follows it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 30.0  # that a command gets to end by itself
_CHUNK = 1 << 20


@dataclass(kw_only=True)
class Detached:
    """The command of one folder. ``follower`` is unique to this object: a file names who came last."""

    folder: Path
    follower: str
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, words: Sequence[str], *, request: Any, cwd: Path, env: Mapping[str, str]) -> bool:
        """Start the command unless it is running already; from then on this object follows it.

        Args:
            words: the command, a list of arguments; it is never read by a shell.
            request: what is asked, as JSON; `finished` compares it.
            cwd: its working directory.
            env: its whole environment.

        Returns:
            Whether it was started; False: it is running, and is followed.

        Raises:
            FileNotFoundError: there is no such program.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path("follower").write_text(self.follower, encoding="utf-8")
        lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        try:
            self._path("request.json").unlink(missing_ok=True)
            with self._path("stdout").open("wb") as out, self._path("stderr").open("wb") as err:
                self._process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    pass_fds=(lock,),
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        self._write("request.json", {"request": request, "pid": self._process.pid})
        return True

    def follow(self) -> Iterator[str]:
        """Yield what the command writes, line by line, from its beginning until it has ended."""
        places = dict.fromkeys(("stderr", "stdout"), 0)
        rests = dict.fromkeys(places, b"")
        ended = False
        while not ended:
            ended = not self.running()  # before reading: what was written until then is read below
            for name in places:
                found = self._read(name, places[name])
                places[name] += len(found)
                *lines, rests[name] = (rests[name] + found).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").rstrip()
            if not ended:
                time.sleep(_POLL_SECONDS)
        yield from (rest.decode("utf-8", "replace").rstrip() for rest in rests.values() if rest)

    def running(self) -> bool:
        """Whether the command still runs."""
        if self._process is not None:
            return self._process.poll() is None
        pid = self._request().get("pid")
        return self._locked() and (pid is None or _exists(pid))

    def exit_code(self) -> int | None:
        """Return how an ended command ended; None: killed, or broken off without a word.

        Only who started a command is told its exit code. Another reads it from the last line, which with
        ``--json`` is the result, or the error with its code.
        """
        if self._process is not None:
            return self._process.wait()
        last = self.result()
        if last is None:
            return None
        return int(last.get("exit_code", 0)) if "error" in last else 0

    def result(self) -> dict[str, Any] | None:
        """Return the JSON of the last line that the command wrote to stdout, if it is that."""
        lines = self._read("stdout", None).decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        try:
            found = json.loads(last)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def finished(self, request: Any) -> dict[str, Any] | None:
        """Return the result of a command that was asked the same and ended well, whoever followed it then."""
        if self.running() or self._request().get("request") != json.loads(json.dumps(request)):
            return None
        found = self.result()
        return None if found is None or "error" in found else found

    def followed_by_another(self) -> bool:
        """Whether someone else has come to follow the command."""
        try:
            return self._path("follower").read_text(encoding="utf-8") != self.follower
        except FileNotFoundError:
            return False

    def stop(self, grace: float = _GRACE_SECONDS) -> None:
        """End the command and what it started: ask, and after some seconds kill."""
        pid = self._process.pid if self._process else self._request().get("pid")
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            if pid is None or not self.running():
                return
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                return
            end = time.monotonic() + seconds
            while self.running() and time.monotonic() < end:
                time.sleep(0.05)

    def stop_unless_followed(self, seconds: float) -> None:
        """Let another process stop the command when nobody else comes to follow it in so many seconds."""
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.folder), self.follower, str(seconds)],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _request(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path("request.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, value: Any) -> None:
        """Write JSON so that a reader sees all of it or what was there before."""
        draft = self._path(f".{name}")
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(self._path(name))

    def _read(self, name: str, start: int | None) -> bytes:
        """Return what a file holds from a place on; None: from near its end."""
        try:
            with self._path(name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - _CHUNK, 0) if start is None else start)
                return file.read()
        except FileNotFoundError:
            return b""

    def _locked(self) -> bool:
        try:
            lock = os.open(self._path("lock"), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_and_stop(folder: str, follower: str, seconds: str) -> None:
    command = Detached(folder=Path(folder), follower=follower)
    end = time.monotonic() + float(seconds)
    while command.running():
        if command.followed_by_another():
            return
        if time.monotonic() >= end:
            command.stop()
            return
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    _wait_and_stop(*sys.argv[1:])
