"""What changed from one version of a dataset to another: images, boxes and classes.

Only manifests and annotations are read, so versions of a hundred thousand images are compared in seconds, and
the images of neither need be here. An image is the same if split and name are; one that is gone from its
place but whose bytes are found elsewhere has moved. Boxes of an image that both versions have are paired:
first those that are equal, then by IoU, those of one class first. Classes are compared by their names.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_core.data.coco import DetectionDataset, ManifestRow, open_dataset
from yolo_core.data.writer import DATASET_FILE
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.average_precision import box_iou

MIN_IOU = 0.5  # boxes that overlap less are not taken for one object
_SHOWN = 10  # lines per kind of change that a person gets; JSON has them all

Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Truth:
    """The boxes of an image: class names, (n, 4) xyxy in pixels, and a hash of what else is annotated."""

    classes: list[str]
    boxes: NDArray[np.float64]
    rest: list[int]

    def __len__(self) -> int:
        return len(self.classes)

    def keys(self) -> list[tuple[Any, ...]]:
        """Return what makes each box equal to another."""
        return list(zip(self.classes, map(tuple, self.boxes.tolist()), self.rest, strict=True))

    def show(self, index: int) -> Report:
        """Return a box for the report, as COCO writes it: x, y, w, h."""
        x, y, right, bottom = self.boxes[index].tolist()
        return {"class": self.classes[index], "box": [round(v, 2) for v in (x, y, right - x, bottom - y)]}


_NOTHING = _Truth(classes=[], boxes=np.empty((0, 4)), rest=[])


def diff(old: Path, new: Path) -> Report:
    """Compare two canonical folders.

    Returns:
        Plain values, for JSON: ``old`` and ``new`` (name, digest, counts), ``same`` (whether the digests
        are), ``classes`` (added, removed, renumbered), ``images`` (added, removed, changed: paths in the
        folder; moved: old and new path) and ``boxes`` (added, removed, changed: counts; by_class;
        by_image: the boxes themselves, x y w h in pixels, of images that both versions have).

    Raises:
        UsageError: a folder is no dataset.
        DataError: its manifest or annotations are broken.
    """
    for root in (old, new):
        if not (root / DATASET_FILE).is_file():
            raise UsageError(f"{root} has no {DATASET_FILE}, so it is no version; give two dataset folders")
    versions = open_dataset(old), open_dataset(new)
    same = versions[0].digest == versions[1].digest
    report: Report = {
        "old": _describe(versions[0]),
        "new": _describe(versions[1]),
        "same": same,
        "classes": _compare_classes(*versions),
    }
    manifests = {} if same else versions[0].manifest(), {} if same else versions[1].manifest()
    report["images"], pairs = _compare_images(*manifests)
    report["boxes"] = _compare_boxes(pairs, *({} if same else _read_truth(version) for version in versions))
    return report


def describe(report: Report) -> Iterator[str]:
    """Yield the lines of a report for people: counts, and the first of each kind."""
    yield f"old: {_headline(report['old'])}"
    yield f"new: {_headline(report['new'])}"
    if report["same"]:
        yield "the same images, boxes and classes"
        return
    classes, images, boxes = report["classes"], report["images"], report["boxes"]
    for kind in ("added", "removed", "renumbered"):
        if classes[kind]:
            yield f"classes {kind}: {len(classes[kind])}"
            yield from _listed(classes[kind])
    for kind in ("added", "removed", "changed", "moved"):
        yield f"images {kind}: {len(images[kind])}"
        yield from _listed([_arrow(item) for item in images[kind]])
    yield f"boxes added: {boxes['added']}, removed: {boxes['removed']}, changed: {boxes['changed']}"
    for name, counts in boxes["by_class"].items():
        if counts["old"] != counts["new"]:
            yield f"  {name}: {counts['old']} before, {counts['new']} now"
    yield from _listed([_image_line(item) for item in boxes["by_image"]])


def _describe(dataset: DetectionDataset) -> Report:
    splits = {name: asdict(info) for name, info in dataset.splits.items()}
    return {"path": str(dataset.root), "name": dataset.name, "digest": dataset.digest, "splits": splits}


def _compare_classes(old: DetectionDataset, new: DetectionDataset) -> Report:
    """Compare classes by name; one is renumbered if its index or its category id is another."""
    before, after = (
        {name: (index, dataset.category_ids[index]) for index, name in enumerate(dataset.names)}
        for dataset in (old, new)
    )
    return {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "renumbered": [name for name in before if name in after and before[name] != after[name]],
    }


def _compare_images(
    old: Mapping[str, ManifestRow], new: Mapping[str, ManifestRow]
) -> tuple[Report, list[tuple[str, str]]]:
    """Compare manifests; also return the paths of the images that both versions have, as pairs."""
    pairs = [(path, path) for path in old if path in new]
    lost: dict[str, list[str]] = defaultdict(list)
    for path in sorted(old.keys() - new.keys(), reverse=True):
        lost[old[path].sha256].append(path)
    moved, added = [], []
    for path in sorted(new.keys() - old.keys()):
        homes = lost[new[path].sha256]
        if homes:
            moved.append((homes.pop(), path))
        else:
            added.append(path)
    report = {
        "added": added,
        "removed": sorted(path for paths in lost.values() for path in paths),
        "changed": [path for path, _ in pairs if old[path].sha256 != new[path].sha256],
        "moved": [{"old": before, "new": after} for before, after in moved],
    }
    return report, pairs + moved


def _compare_boxes(
    pairs: Sequence[tuple[str, str]], old: Mapping[str, _Truth], new: Mapping[str, _Truth]
) -> Report:
    totals: Counter[str] = Counter()
    by_image = []
    for before, after in pairs:
        changes = _pair_boxes(old.get(before, _NOTHING), new.get(after, _NOTHING))
        if changes:
            totals.update({kind: len(found) for kind, found in changes.items()})
            by_image.append({"image": after, **changes})
    counts = [Counter(name for truth in version.values() for name in truth.classes) for version in (old, new)]
    names = sorted(counts[0].keys() | counts[1].keys())
    return {
        **{kind: totals[kind] for kind in ("added", "removed", "changed")},
        "by_class": {name: {"old": counts[0][name], "new": counts[1][name]} for name in names},
        "by_image": by_image,
    }


def _pair_boxes(old: _Truth, new: _Truth) -> Report:
    """Return the boxes that an image gained, lost and has otherwise; empty if all are equal."""
    gone, come = _unequal(old.keys(), new.keys())
    if not gone and not come:
        return {}
    changed = []
    for before, after, overlap in _overlapping(old, new, gone, come):
        gone.remove(before)
        come.remove(after)
        what = [
            *(["class"] if old.classes[before] != new.classes[after] else []),
            *(["box"] if (old.boxes[before] != new.boxes[after]).any() else []),
            *(["outline or crowd"] if old.rest[before] != new.rest[after] else []),
        ]
        changed.append(
            {"what": what, "iou": round(overlap, 4), "old": old.show(before), "new": new.show(after)}
        )
    found = {"added": [new.show(i) for i in come], "removed": [old.show(i) for i in gone], "changed": changed}
    return {kind: boxes for kind, boxes in found.items() if boxes}


def _unequal(old: list[tuple[Any, ...]], new: list[tuple[Any, ...]]) -> tuple[list[int], list[int]]:
    """Return the indices that are left on each side once equal keys have been paired."""
    if old == new:
        return [], []
    places: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, key in enumerate(old):
        places[key].append(index)
    come = []
    for index, key in enumerate(new):
        if places[key]:
            places[key].pop()
        else:
            come.append(index)
    return sorted(index for left in places.values() for index in left), come


def _overlapping(old: _Truth, new: _Truth, gone: list[int], come: list[int]) -> list[tuple[int, int, float]]:
    """Pair boxes that overlap enough, greedily: those of one class first, then the largest IoU."""
    overlaps = box_iou(old.boxes[gone], new.boxes[come])
    candidates = sorted(
        (old.classes[gone[i]] != new.classes[come[j]], -overlaps[i, j], gone[i], come[j])
        for i, j in np.argwhere(overlaps >= MIN_IOU).tolist()
    )
    found: list[tuple[int, int, float]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for _, negative, before, after in candidates:
        if before not in taken[0] and after not in taken[1]:
            taken[0].add(before)
            taken[1].add(after)
            found.append((before, after, -float(negative)))
    return found


def _read_truth(dataset: DetectionDataset) -> dict[str, _Truth]:
    """Read the annotations of all splits: path of an image in the folder -> its boxes."""
    names = dict(zip(dataset.category_ids, dataset.names, strict=True))
    found: dict[str, _Truth] = {}
    for split in dataset.splits:
        content = dataset.annotations(split)
        try:
            by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
            for item in content["annotations"]:
                by_image[item["image_id"]].append(item)
            for image in content["images"]:
                found[f"images/{image['file_name']}"] = _truth(by_image.pop(image["id"], []), names)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            path = dataset.annotation_file(split)
            raise DataError(f"{path} is not valid COCO JSON: {type(error).__name__} {error}") from None
    return found


def _truth(items: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> _Truth:
    boxes = np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return _Truth(
        classes=[names[item["category_id"]] for item in items],
        boxes=boxes,
        rest=[_hash(item.get("iscrowd", 0), item.get("segmentation")) for item in items],
    )


def _hash(crowd: Any, segmentation: Any) -> int:
    """Stand for a segmentation in a few bytes; all polygons of COCO would fill gigabytes."""
    if isinstance(segmentation, list):
        return hash((crowd, tuple(map(tuple, segmentation))))
    return hash((crowd, json.dumps(segmentation, sort_keys=True)))


def _headline(version: Report) -> str:
    counts = ", ".join(
        f"{split} {info['images']} images {info['boxes']} boxes" for split, info in version["splits"].items()
    )
    return f"{version['name']} {version['digest'][:19]} ({counts}) in {version['path']}"


def _listed(items: Sequence[str]) -> Iterator[str]:
    yield from (f"  {item}" for item in items[:_SHOWN])
    if len(items) > _SHOWN:
        yield f"  and {len(items) - _SHOWN} more; --json lists them all"


def _arrow(item: str | Mapping[str, str]) -> str:
    return item if isinstance(item, str) else f"{item['old']} -> {item['new']}"


def _image_line(item: Report) -> str:
    parts = [f"+{box['class']} {box['box']}" for box in item.get("added", ())]
    parts += [f"-{box['class']} {box['box']}" for box in item.get("removed", ())]
    for change in item.get("changed", ()):
        before, after = change["old"]["class"], change["new"]["class"]
        name = before if before == after else f"{before} -> {after}"
        parts.append(f"{name}: {' and '.join(change['what'])} (IoU {change['iou']:.2f})")
    return f"{item['image']}: {'; '.join(parts)}"
