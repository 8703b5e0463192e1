"""The gates: every rule's finding about a challenger, and what follows from all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.promote.case import Candidate, Case, Comparison, compare
from components.promote.config import PromoteConfig, Severity
from components.promote.rules import FAIL, INSUFFICIENT, PASS, RULES, Finding, Verdict
from yolo_core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """A rule with its weight and what it found."""

    rule: str
    severity: Severity
    finding: Finding


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What the gates say of a challenger.

    Attributes:
        model: name of the registered model.
        version: of the challenger.
        champion: version that it was compared with; None: there is none, and the first rules count.
        insufficient: whether what the data cannot tell blocks, or only warns.
        rulings: of the rules that are not off.
        case: what was judged; None if the challenger has no evidence.
    """

    model: str
    version: str
    champion: str | None
    insufficient: str
    rulings: tuple[Ruling, ...]
    case: Case | None

    @property
    def verdict(self) -> Verdict:
        """FAIL if a blocking rule fails; else INSUFFICIENT if one cannot tell, unless that only warns."""
        found = {ruling.finding.verdict for ruling in self.rulings if ruling.severity == "block"}
        if FAIL in found:
            return FAIL
        return INSUFFICIENT if INSUFFICIENT in found and self.insufficient == "block" else PASS

    @property
    def stoppers(self) -> tuple[Ruling, ...]:
        """The rules to which the verdict is owed, if it is not PASS."""
        wanted = self.verdict
        if wanted == PASS:
            return ()
        return tuple(
            ruling
            for ruling in self.rulings
            if ruling.severity == "block" and ruling.finding.verdict in (FAIL, wanted)
        )

    @property
    def reason(self) -> str:
        """The verdict in one line."""
        over = f"champion {self.champion}" if self.champion else "no champion"
        if self.verdict == PASS:
            warned = [ruling.rule for ruling in self.rulings if ruling.finding.verdict != PASS]
            return f"version {self.version} passes against {over}" + (
                f", with warnings: {', '.join(warned)}" if warned else ""
            )
        said = "; ".join(f"{ruling.rule}: {ruling.finding.text}" for ruling in self.stoppers)
        if self.verdict == FAIL:
            return f"version {self.version} fails against {over}: {said}"
        return f"the data cannot tell whether version {self.version} may replace {over}: {said}"

    @property
    def document(self) -> dict[str, Any]:
        """The judgement as JSON holds it; equal for equal evidence and rules."""
        return {
            "model": self.model,
            "version": self.version,
            "champion": self.champion,
            "verdict": self.verdict,
            "reason": self.reason,
            "insufficient": self.insufficient,
            "rules": [
                {
                    "rule": ruling.rule,
                    "severity": ruling.severity,
                    "verdict": ruling.finding.verdict,
                    "text": ruling.finding.text,
                    "figures": [dict(row) for row in ruling.finding.figures],
                }
                for ruling in self.rulings
            ],
            "measured_on": _place(self.case),
            "classes": _classes(self.case.comparison if self.case else None),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON file."""
        return f"sha256:{hashlib.sha256(self.text.encode()).hexdigest()}"

    @property
    def text(self) -> str:
        """The JSON file."""
        return json.dumps(self.document, indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: may this version replace that champion?

    Attributes:
        model: name of the registered model.
        version: of the challenger.
        champion: version that is champion; None: there is none, and the first rules count.
        run: whether the challenger's runs ended well, which always blocks.
    """

    model: str
    version: str
    champion: str | None
    run: Finding


def judge(question: Question, case: Case | str, config: PromoteConfig) -> Judgement:
    """Ask every rule that is not off; a text in place of the case is why there is no evidence."""
    rulings = [Ruling(rule="run", severity="block", finding=question.run)]
    for rule, severity in _weights(config, question.champion).items():
        finding = Finding(verdict=INSUFFICIENT, text=case) if isinstance(case, str) else RULES[rule](case)
        rulings.append(Ruling(rule=rule, severity=severity, finding=finding))
    return Judgement(
        model=question.model,
        version=question.version,
        champion=question.champion,
        insufficient=config.insufficient,
        rulings=tuple(rulings),
        case=None if isinstance(case, str) else case,
    )


def make_case(challenger: Candidate, champion: Candidate | str | None, config: PromoteConfig) -> Case:
    """Put two versions together; a text in place of the champion is why it cannot be compared."""
    if champion is None or isinstance(champion, str):
        return Case(
            challenger=challenger, champion=None, comparison=None, obstacle=champion or "", config=config
        )
    try:
        comparison: Comparison | None = compare(challenger, champion, config)
        obstacle = ""
    except DataError as error:
        comparison = None
        obstacle = f"version {challenger.version} and champion {champion.version} cannot be compared: {error}"
    return Case(
        challenger=challenger, champion=champion, comparison=comparison, obstacle=obstacle, config=config
    )


def _weights(config: PromoteConfig, champion: str | None) -> Mapping[str, Severity]:
    """Return the rules that are not off, in the order of `RULES`."""
    asked = config.severities(first=champion is None)
    return {rule: asked[rule] for rule in RULES if asked.get(rule, "off") != "off"}


def _place(case: Case | None) -> dict[str, Any] | None:
    if case is None:
        return None
    return {
        "dataset_digest": case.challenger.dataset_digest,
        "split": case.challenger.split,
        "images": case.challenger.images,
        "challenger": case.challenger.how,
        "champion": case.champion.how if case.champion else None,
    }


def _classes(compared: Comparison | None) -> list[dict[str, Any]]:
    """Return a row per class that both know and the split holds."""
    if compared is None:
        return []
    rows = []
    for index, name in enumerate(compared.names):
        change = compared.classes.class_ap[index]
        if change is not None:
            rows.append(
                {
                    "class": name,
                    "boxes": compared.boxes[index],
                    "images": change.images,
                    "champion_ap": compared.champion_ap[index],
                    "challenger_ap": compared.challenger_ap[index],
                    "difference": change.value,
                    "low": change.low,
                    "high": change.high,
                    "verdict": change.verdict,
                }
            )
    return rows
