"""A comparison as one page that needs nothing else: verdicts, tables that sort, plots, rule and notes."""

from __future__ import annotations

import html

from components.pages import build_page, list_facts
from components.study.compare.contrast import Contrast, Standing
from components.study.compare.files import rule, share, speed, with_interval
from components.study.compare.plots import (
    MOST_CLASSES,
    plot_classes,
    plot_differences,
    plot_intervals,
    plot_speed,
)
from components.study.compare.study_page import SORT, STYLE, Cell, sortable
from yolo_core.metrics.bootstrap import FEWEST_IMAGES, Difference, Interval

STYLE_CONTRAST = (
    STYLE
    + """\
  td.win, td.lose { font-weight: 600; }
  td.win { background: var(--good); color: var(--good-ink); }
  td.lose { background: var(--bad); color: var(--bad-ink); }
  td.undecided { color: var(--quiet); }
  svg.plot { display: block; width: 100%; max-width: 60rem; min-width: 36rem; height: auto; }
  table.sortable th { white-space: normal; min-width: 4.5rem; vertical-align: bottom; }
  h1, li { overflow-wrap: anywhere; }
  p.flag { border-left: .3rem solid #e8a600; padding-left: .7rem; }
  p.rule { color: var(--quiet); max-width: 60rem; }
"""
)
_TOLD = (
    "AP and AP50 are COCO's, mAP and mAP50 the built-in evaluation's. Click a heading to sort, or reach it "
    "with the tab key and press enter."
)
_VERDICTS = {"win": "wins against", "lose": "loses against", "undecided": "cannot be told from"}
_NO = Cell("", "")


def contrast_page(result: Contrast, title: str) -> str:
    """Return the HTML of a whole page."""
    first = result.standings[0].contestant
    places = {(each.contestant.dataset, *each.contestant.place) for each in result.standings}
    facts = {
        "measured on": "; ".join(
            f"{name}, {split} split ({digest[:19]})" for name, digest, split in sorted(places)
        ),
        "compared with": first.label,
        "draws": "the same images for all, paired" if result.paired else "UNPAIRED: not the same images",
        "detections": "; ".join(
            f"{each.contestant.label}: {each.contestant.how}" for each in result.standings
        ),
    }
    return build_page(
        title, f"{list_facts(facts)}\n{contrast_body(result)}", style=STYLE_CONTRAST, script=SORT
    )


def contrast_body(result: Contrast) -> str:
    """Return the sections of a comparison, for a page with `STYLE_CONTRAST` and the sorting script."""
    others = [standing for standing in result.standings if standing.difference]
    parts = [f'<p class="flag">{_escape(note)}</p>' for note in result.notes]
    parts += ["<ul>", *(f"<li>{_escape(sentence(each, result))}</li>" for each in others), "</ul>"]
    parts += ["<h2>Models</h2>", _models(result), f"<p>{_TOLD}</p>"]
    parts += ["<h2>How sure each AP is</h2>", _plot(plot_intervals(result), "AP and AP50 with intervals")]
    if others:
        drawn = _plot(plot_differences(result), "Differences with intervals")
        parts += ["<h2>Differences to the first</h2>", drawn]
    parts += [f'<p class="rule">{_escape(rule(result))}</p>']
    if any(standing.contestant.timing for standing in result.standings):
        parts += ["<h2>AP and speed</h2>", _plot(plot_speed(result), "AP over milliseconds per image")]
    parts += [_times(result), "<h2>Classes</h2>"]
    for each in others:
        label = each.contestant.label
        parts += [_plot(plot_classes(result, each), f"Differences by class of {label}")]
    parts += [f"<p>{_classes_told(result)}</p>", _classes(result)]
    return "\n".join(parts)


def sentence(standing: Standing, result: Contrast) -> str:
    """Say in one sentence how a model stands to the first."""
    difference = standing.difference
    assert difference is not None
    label, first = standing.contestant.label, result.standings[0].contestant.label
    ap = difference.ap
    verdict = f"{label} {_VERDICTS[ap.verdict]} {first}"
    pace = f"; {speed(standing)} its speed" if standing.speed_ratio is not None else ""
    return (
        f"{verdict}: AP {with_interval(ap, signed=True)} points, better in {share(ap.better)} of the "
        f"resamples; AP50 {with_interval(difference.ap50, signed=True)} ({difference.ap50.verdict}){pace}."
    )


def _models(result: Contrast) -> str:
    heads = (
        "model",
        "AP, %",
        "AP50, %",
        "AP to first",
        "better in",
        "verdict",
        "AP50 to first",
        "AP50 verdict",
    )
    tail = ("ms/image", "speed", "size, px", "mAP, %", "mAP50, %")
    return sortable((*heads, *tail), [_model_row(standing) for standing in result.standings])


def _model_row(standing: Standing) -> list[Cell]:
    one, intervals, difference = standing.contestant, standing.intervals, standing.difference
    row = [Cell(one.label, one.label), _value(intervals.ap), _value(intervals.ap50)]
    if difference is None:
        row += [Cell("first", "")] + [_NO] * 4
    else:
        ap, ap50 = difference.ap, difference.ap50
        row += [_change(ap), Cell(share(ap.better), ap.better), _verdict(ap), _change(ap50), _verdict(ap50)]
    milliseconds, ratio = one.timing.total_ms if one.timing else None, standing.speed_ratio
    row.append(
        Cell("not measured", "") if milliseconds is None else Cell(f"{milliseconds:.1f}", milliseconds)
    )
    row.append(Cell(speed(standing), "" if ratio is None else ratio))
    row.append(Cell(str(one.image_size), one.image_size) if one.image_size else Cell("unknown", ""))
    known = [one.reported.get(key) for key in ("map", "map50")]
    return [*row, *(_NO if value is None else Cell(f"{100 * value:.1f}", value) for value in known)]


def _times(result: Contrast) -> str:
    said: dict[str, list[str]] = {}
    for standing in result.standings:
        timing = standing.contestant.timing
        said.setdefault(timing.conditions if timing else "", []).append(standing.contestant.label)
    lines = [
        f"{', '.join(labels)}: {'measured under ' + conditions if conditions else 'times not measured'}."
        for conditions, labels in said.items()
    ]
    if len([conditions for conditions in said if conditions]) > 1:
        lines.append("Times taken under different conditions are not compared.")
    return f'<p class="rule">{_escape(" ".join(lines))}</p>'


def _classes_told(result: Contrast) -> str:
    told = (
        []
        if not result.standings[1:]
        else [
            "Green wins, red loses, grey is undecided; hollow are classes that fewer than "
            f"{FEWEST_IMAGES} images hold."
        ]
    )
    if result.standings[1:] and sum(count > 0 for count in result.boxes) > MOST_CLASSES:
        told.append(f"The plot shows the {MOST_CLASSES} that matter most, the table all.")
    unseen = [name for name, count in zip(result.names, result.boxes, strict=True) if not count]
    if unseen:
        told.append(f"No image holds {', '.join(unseen)}.")
    return _escape(" ".join(told))


def _classes(result: Contrast) -> str:
    others = [standing for standing in result.standings if standing.difference]
    heads = ["class", "images", "boxes", *(f"{each.contestant.label}: AP, %" for each in result.standings)]
    for each in others:
        heads += [f"{each.contestant.label}: AP to first", "better in", "verdict"]
    rows = []
    for index, name in enumerate(result.names):
        images, boxes = result.images[index], result.boxes[index]
        if not boxes:
            continue
        row = [Cell(name, name), Cell(str(images), images), Cell(str(boxes), boxes)]
        row += [_value(each.intervals.class_ap[index]) for each in result.standings]
        for each in others:
            assert each.difference is not None
            change = each.difference.class_ap[index]
            row += [_NO] * 3 if change is None else _class_change(change)
        rows.append(row)
    return sortable(heads, rows)


def _class_change(change: Difference) -> list[Cell]:
    return [_change(change), Cell(share(change.better), change.better), _verdict(change)]


def _value(interval: Interval | None) -> Cell:
    return _NO if interval is None else Cell(with_interval(interval), interval.value)


def _change(difference: Difference) -> Cell:
    return Cell(with_interval(difference, signed=True), difference.value)


def _verdict(difference: Difference) -> Cell:
    return Cell(difference.verdict, difference.verdict, difference.verdict)


def _plot(svg: str, name: str) -> str:
    described = svg.replace("<svg", f'<svg aria-label="{_escape(name)}"', 1)
    return f'<div class="wide" tabindex="0">{described}</div>'


def _escape(value: object) -> str:
    return html.escape(str(value))
