"""Promotions and rollbacks that die at any moment, and those that race."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from components.promote import registry as registry_module
from components.promote import turn as turn_module
from components.promote.candidates import Bench
from components.promote.turn import PREFIX, take_turn
from tests.components.promote.conftest import NAME, Registry
from yolo_core.errors import UnreachableError

_WRITES = ("set_", "delete_", "log_", "create_", "copy_")


class Death(BaseException):
    """What a test kills the process with."""


class Mortal:
    """An MLflow client whose process dies instead of its ``last`` write, and answers no more then."""

    def __init__(self, client: Any, last: int) -> None:
        self._client, self._left = client, last

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if name.startswith(_WRITES):
                self._left -= 1
            if self._left <= 0:
                raise Death
            return found(*args, **kwargs)

        return call


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], bool]:
    """Run something that dies instead of its n-th write, as a process that is gone afterwards."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    connect = registry_module.connect

    def run(last: int, work: Callable[[], Any]) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(registry_module, "connect", lambda *a, **k: Mortal(connect(*a, **k), last))
            patch.setattr(turn_module.os, "getpid", lambda: gone.pid)
            try:
                work()
            except Death:
                return True
            return False

    return run


def settled(registry: Registry, launch: Any) -> dict[str, Any]:
    """What must be the same whether something was interrupted or not."""
    found = launch("history", "--model", registry.name, "--json").result
    keys = ("number", "action", "who", "before", "after", "previous", "complete")
    copies = f"{registry.name}-production"
    return {
        "aliases": registry.aliases(),
        "production": registry.aliases(copies),
        "copies": len(registry.client.search_model_versions(f"name = '{copies}'")),
        "entries": [{key: entry[key] for key in keys} for entry in found["entries"]],
        "faults": found["faults"],
    }


@pytest.mark.parametrize(("command", "step"), [("promote", 4), ("rollback", 6)])
def test_a_retry_ends_in_the_same_state(
    registry: Registry, launch: Any, dying: Any, command: str, step: int
) -> None:
    expected, last = None, 0
    while True:
        registry.name = f"detector-{command}-{last}"
        registry.client.create_registered_model(registry.name)
        first = registry.add(
            0.5, alias="champion" if command == "promote" else "previous", evidence=command == "promote"
        )
        second = registry.add(0.7, alias="challenger" if command == "promote" else "champion")
        words = [command, "--model", registry.name, "--approve-by", "ada", "--set", "promote.resamples=20"]
        words += ["--set", f"promote.production_name={registry.name}-production"]
        words += ["--expect-champion", second] if command == "rollback" else []
        died = dying(last, lambda words=words: launch(*words)) if last else False
        done = launch(*words)
        assert done.code == 0, (last, done.err)
        found = settled(registry, launch)
        expected = expected or found
        assert found == expected, f"died instead of write {last}"
        if last and not died:
            break
        last += step
    assert last > 10  # so many moments there were
    champion, before = (second, first) if command == "promote" else (first, second)
    assert expected["aliases"]["champion"] == champion
    (entry,) = expected["entries"]
    assert (entry["before"], entry["after"], entry["complete"]) == (before, champion, True)
    assert (expected["copies"], expected["production"]["champion"]) == (1, "1")


def test_the_champion_that_changed_while_the_gates_judged(
    registry: Registry, launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(0.5)
    assert launch("promote", "--model", NAME).code == 0
    mine, theirs = registry.add(0.7, alias=None), registry.add(0.8, alias=None)
    judge = Bench.judge

    def slow(self: Bench, version: str, champion: str | None) -> Any:
        judgement = judge(self, version, champion)
        if version == mine:
            assert launch("promote", "--model", NAME, "--version", theirs, "--approve-by", "bob").code == 0
        return judgement

    monkeypatch.setattr(Bench, "judge", slow)
    done = launch("promote", "--model", NAME, "--version", mine, "--approve-by", "ada")
    assert done.code == 1
    assert f"changed meanwhile from version 1 to {theirs}; nothing was changed" in done.complaint
    assert registry.aliases() == {"champion": theirs, "previous": "1"}
    entries = launch("history", "--model", NAME, "--json").result["entries"]
    assert [entry["after"] for entry in entries] == ["1", theirs]


def test_turns_do_not_overlap(registry: Registry) -> None:
    inside, overlaps = [], []

    def work(name: str) -> None:
        for _ in range(3):
            with take_turn(registry.client, NAME, lambda _: None):
                inside.append(name)
                overlaps.append(len(inside))
                time.sleep(0.02)
                inside.remove(name)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [1] * 9
    assert registry.model_tags() == {}


def test_a_ticket_of_another_host_holds_until_it_is_old(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "LEASE", 1.0)
    ticket = '{"number": 1, "host": "elsewhere", "process": 1, "written": 0}'
    registry.client.set_registered_model_tag(NAME, f"{PREFIX}old", ticket)
    registry.client.set_registered_model_tag(NAME, f"{PREFIX}nonsense", "x")
    told: list[str] = []
    began = time.monotonic()
    with take_turn(registry.client, NAME, told.append) as turn:
        assert time.monotonic() - began > 1.0
        assert told == [f"waiting for process 1 on elsewhere, which changes {NAME} now"]
        time.sleep(0.6)
        with pytest.raises(UnreachableError, match="a turn to change aliases ends after"):
            turn.check()
    assert registry.model_tags() == {}
