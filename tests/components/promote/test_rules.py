"""The rules, from made-up evidence alone."""

from __future__ import annotations

from typing import Any

import pytest

from components.promote.case import Candidate, Case
from components.promote.gates import Question, judge, make_case
from components.promote.page import judgement_page
from components.promote.rules import FAIL, INSUFFICIENT, PASS, RULES, Finding
from tests.components.promote.made_up import candidate, config

READY = Finding(verdict=PASS, text="ready")


def case(challenger: Candidate, champion: Candidate | str | None = None, **changes: Any) -> Case:
    return make_case(challenger, champion, config(**changes))


def found(rule: str, *arguments: Any, **changes: Any) -> Finding:
    return RULES[rule](case(*arguments, **changes))


@pytest.mark.parametrize(
    ("quality", "verdict"), [(0.8, PASS), (0.7, PASS), (0.5, FAIL), (0.69, PASS), (0.64, INSUFFICIENT)]
)
def test_ap_against_the_champion(quality: float, verdict: str) -> None:
    finding = found("ap", candidate("2", quality), candidate("1", 0.7), max_ap_drop=0.06)
    assert finding.verdict == verdict, finding.text
    assert finding.figures[0]["limit"] == -0.06
    assert finding.figures[0]["low"] <= finding.figures[0]["difference"] <= finding.figures[0]["high"]


def test_few_images_decide_nothing() -> None:
    finding = found("ap", candidate("2", 0.7, images=6), candidate("1", 0.7, images=6))
    assert finding.verdict == INSUFFICIENT
    assert "6 images with truths are too few" in finding.text
    drop = found("class_drop", candidate("2", 0.7, images=6), candidate("1", 0.7, images=6))
    assert drop.verdict == INSUFFICIENT


def test_a_class_that_fell_and_one_that_is_gone() -> None:
    champion = candidate("1", 0.7)
    finding = found("class_drop", candidate("2", {"cat": 0.9, "dog": 0.4}), champion)
    assert finding.verdict == FAIL
    assert [row["class"] for row in finding.figures] == ["dog"]
    assert found("class_drop", candidate("2", {"cat": 0.9, "dog": 0.69}), champion).verdict == PASS
    finding = found("class_drop", candidate("2", 0.9, names=("cat",)), champion)
    assert finding.verdict == FAIL
    assert "does not know dog" in finding.text
    assert found("ap", candidate("2", 0.9, names=("cat", "dog", "cow")), champion).verdict == PASS


def test_a_drop_that_may_be_chance_is_told_and_passes() -> None:
    champion, noisy = candidate("1", 0.7, images=14), candidate("2", 0.6, images=14, seed=5)
    finding = found("class_drop", noisy, champion, max_class_drop=0.01)
    assert finding.verdict == PASS
    assert "it may be chance: dog" in finding.text


def test_other_images_cannot_be_compared() -> None:
    finding = found("ap", candidate("2", 0.7), candidate("1", 0.7, images=100))
    assert finding.verdict == INSUFFICIENT
    assert finding.text.startswith(
        "version 2 and champion 1 cannot be compared: paired detectors need the same"
    )
    strangers = found("ap", candidate("2", 0.7), candidate("1", 0.7, names=("cow",)))
    assert strangers.text.endswith("no class that both know has a truth")


def test_sizes() -> None:
    def sized(version: str, medium: float | None) -> Candidate:
        sizes = [
            {"size": "medium", "instances": 9, "ap": medium},
            {"size": "small", "instances": 0, "ap": -1},
        ]
        return candidate(version, 0.7, evaluation={"split": "test", "per_size": sizes})

    assert found("size_drop", sized("2", 0.65), sized("1", 0.7)).verdict == PASS
    finding = found("size_drop", sized("2", 0.5), sized("1", 0.7))
    assert finding.verdict == FAIL
    assert finding.figures[0]["size"] == "medium"
    assert found("size_drop", sized("2", None), sized("1", 0.7)).verdict == INSUFFICIENT
    assert found("size_floor", sized("2", 0.5)).verdict == PASS
    assert found("size_floor", sized("2", 0.5), size_floors={"medium": 0.4}).verdict == PASS
    assert found("size_floor", sized("2", 0.5), size_floors={"medium": 0.6}).verdict == FAIL
    assert found("size_floor", sized("2", 0.5), size_floors={"small": 0.1}).verdict == INSUFFICIENT


def test_floors() -> None:
    one = candidate("2", {"cat": 0.9, "dog": 0.3})
    assert found("ap_floor", one, min_ap=0.5).verdict == PASS
    assert found("ap_floor", one, min_ap=0.7).verdict == FAIL
    finding = found("class_floor", one, min_class_ap=0.5)
    assert finding.verdict == FAIL
    assert "1 of 2 classes" in finding.text
    assert [row["class"] for row in finding.figures] == ["dog"]
    assert found("class_floor", one, min_class_ap=0.5, class_floors={"dog": 0.1}).verdict == PASS
    assert (
        "cow, which the challenger does not know" in found("class_floor", one, class_floors={"cow": 0.1}).text
    )


def test_latency() -> None:
    one = candidate("2", 0.7)
    assert found("latency", one).text == "no limit is set"
    assert found("latency", one, max_latency_ms=20.0).verdict == PASS
    finding = found("latency", one, max_latency_ms=7.5, latency_backend="onnx")
    assert finding.verdict == FAIL
    assert finding.text == "onnx takes 8.00 ms per image, at most 7.50 is asked"
    finding = found("latency", one, max_latency_ms=7.5, latency_backend="openvino")
    assert finding.verdict == INSUFFICIENT
    assert finding.text == "openvino was not timed; timed are pytorch, onnx"


def test_parity_validation_and_data() -> None:
    assert found("parity", candidate("2", 0.7)).verdict == PASS
    assert found("parity", candidate("2", 0.7, export=None)).verdict == INSUFFICIENT
    bad = {"verdict": "FAIL", "passed": 0, "matched": 0.951234, "max_box_error": 1.5}
    finding = found("parity", candidate("2", 0.7, export={"formats": {"openvino": bad}}))
    assert finding.text == "exports differ from PyTorch: openvino: matched 0.9512, max_box_error 1.5"
    assert finding.figures == ({"format": "openvino", "matched": 0.951234, "max_box_error": 1.5},)
    elsewhere = {"verdict": "INSUFFICIENT", "reasons": ["it cannot run here: not macOS"]}
    finding = found("parity", candidate("2", 0.7, export={"formats": {"coreml": elsewhere}}))
    assert finding.verdict == INSUFFICIENT
    assert finding.text == "not judged, coreml: it cannot run here: not macOS"
    some = {"formats": {"coreml": elsewhere, "tflite": {"verdict": "PASS"}}}
    finding = found("parity", candidate("2", 0.7, export=some))
    assert (finding.verdict, "not judged, coreml" in finding.text) == (PASS, True)
    assert found("validation", candidate("2", 0.7)).verdict == PASS
    assert found("validation", candidate("2", 0.7, data={})).verdict == INSUFFICIENT
    assert found("data", candidate("2", 0.7)).verdict == PASS
    finding = found("data", candidate("2", 0.7, images=30), min_instances=40)
    assert finding.verdict == INSUFFICIENT
    assert "50 images are asked; classes with fewer than 40 boxes: cat (30), dog (30)" in finding.text


def test_what_weighs_what() -> None:
    question = Question(model="m", version="2", champion="1", run=READY)
    bad = case(candidate("2", 0.5), candidate("1", 0.7))
    assert judge(question, bad, config()).verdict == FAIL
    assert [ruling.rule for ruling in judge(question, bad, config()).stoppers] == ["ap", "class_drop"]
    rules = {**vars(config().rules), "ap": "warn", "class_drop": "off"}
    lenient = judge(question, bad, config(rules=rules))
    assert lenient.verdict == PASS
    assert lenient.reason == "version 2 passes against champion 1, with warnings: ap"
    assert "class_drop" not in {ruling.rule for ruling in lenient.rulings}
    unknown = judge(question, case(candidate("2", 0.7), "champion 1 is elsewhere"), config())
    assert unknown.verdict == INSUFFICIENT
    assert unknown.reason.startswith(
        "the data cannot tell whether version 2 may replace champion 1: ap: champion"
    )
    unfit = judge(
        Question(model="m", version="2", champion=None, run=Finding(verdict=FAIL, text="x")), bad, config()
    )
    assert unfit.verdict == FAIL
    assert judge(question, bad, config()).digest == judge(question, bad, config()).digest


def test_the_page_escapes_and_shows_all(tmp_path: Any) -> None:
    names = ("<b>cat</b>", "dog")
    challenger, champion = (candidate(v, q, names=names) for v, q in (("2", 0.5), ("1", 0.7)))
    judgement = judge(
        Question(model="m", version="2", champion="1", run=READY), case(challenger, champion), config()
    )
    page = judgement_page(judgement)
    assert "<b>" not in page
    assert "&lt;b&gt;cat" in page
    for ruling in judgement.rulings:
        assert f"<td>{ruling.rule}</td>" in page
