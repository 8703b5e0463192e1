"""May an export be shipped? Its parity and its AP against limits, where the evidence allows a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolo_core.export.limits import Enough, Limits, Parity
from yolo_core.metrics.bootstrap import FEWEST_IMAGES, Difference

Kind = Literal["PASS", "FAIL", "INSUFFICIENT"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """What an export and PyTorch reach on the same images with the same suppression.

    Attributes:
        images: evaluated.
        objects: truths in them that are no crowds.
        ap, ap50: of the export: over IoU .5 to .95, and at .5; fractions of 1.
        pytorch_ap, pytorch_ap50: likewise.
        difference, difference50: export minus PyTorch, with paired bootstrap intervals.
    """

    images: int
    objects: int
    ap: float
    ap50: float
    pytorch_ap: float
    pytorch_ap50: float
    difference: Difference
    difference50: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """PASS, FAIL with the rules that failed, or INSUFFICIENT with what is missing; in words with figures."""

    kind: Kind
    reasons: tuple[str, ...] = ()


def decide(parity: Parity, accuracy: Accuracy | None, limits: Limits, enough: Enough) -> Verdict:
    """Judge an export.

    A raw output that is too far off fails on any evidence. Shares and APs need enough of it. An AP loss fails
    if its whole interval is beyond the limit, and passes if none of it is; between the two nobody knows.

    Args:
        parity: of raw outputs and detections.
        accuracy: None where there are no truths.
        limits: of the format's precision.
        enough: evidence.
    """
    few = _lacking(parity, accuracy, enough)
    failed = limits.judge(parity)
    if parity.detections < enough.detections or parity.images < enough.images:
        failed = [reason for reason in failed if "detections match" not in reason]
    worse, unsure = _losses(accuracy, limits)
    if accuracy is not None and not _few_truths(accuracy, enough):
        failed += worse
        few += unsure
    if failed:
        return Verdict(kind="FAIL", reasons=tuple(failed))
    return Verdict(kind="INSUFFICIENT" if few else "PASS", reasons=tuple(few))


def _lacking(parity: Parity, accuracy: Accuracy | None, enough: Enough) -> list[str]:
    """Return what evidence is missing."""
    few = []
    if parity.images < enough.images:
        few.append(f"only {parity.images} images were compared ({enough.images} are needed)")
    if parity.detections < enough.detections:
        few.append(f"PyTorch finds only {parity.detections} objects in them ({enough.detections} are needed)")
    if accuracy is None:
        few.append("no image has a truth, so there is no AP")
    elif _few_truths(accuracy, enough):
        few.append(
            f"AP is of only {accuracy.objects} objects in {accuracy.difference.images} images "
            f"({enough.objects} in {FEWEST_IMAGES} are needed)"
        )
    return few


def _few_truths(accuracy: Accuracy, enough: Enough) -> bool:
    return accuracy.objects < enough.objects or accuracy.difference.images < FEWEST_IMAGES


def _losses(accuracy: Accuracy | None, limits: Limits) -> tuple[list[str], list[str]]:
    """Return the losses of AP that are too large, and those of which nobody can tell."""
    worse: list[str] = []
    unsure: list[str] = []
    if accuracy is None:
        return worse, unsure
    for what, change, limit in (
        ("AP", accuracy.difference, limits.max_ap_loss),
        ("AP50", accuracy.difference50, limits.max_ap50_loss),
    ):
        if limit is None or change.low >= -limit:
            continue
        figures = f"{change.value:+.4f}, interval {change.low:+.4f} to {change.high:+.4f}, limit -{limit:g}"
        if change.high < -limit:
            worse.append(f"{what} is lower ({figures})")
        else:
            unsure.append(f"the interval of the {what} difference does not decide ({figures})")
    return worse, unsure
