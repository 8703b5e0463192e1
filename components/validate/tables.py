"""The dataset as tables: a row per annotation, image, class of a split, split, and compared property.

The files are read as they are, not through `DetectionDataset.samples`, which stops at the first fault:
here every fault must get as far as the rule that is made for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.validate.annotations import build_annotations, read_content
from components.validate.config import ValidateConfig
from components.validate.images import Seen, build_images, look_at_all
from components.validate.statistics import Counts, describe_split, distance
from yolo_core.data.coco import DetectionDataset

if TYPE_CHECKING:
    import pandas as pd

CLASS_COLUMNS = ("row", "category_id", "name", "split", "instances", "times_rarer")
SPLIT_COLUMNS = ("row", "split", "images", "boxes", "unlabelled", "class_distance", "size_distance")
DRIFT_COLUMNS = ("row", "feature", "distance", "threshold")

Statistics = Mapping[str, Counts]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The training data of a champion: ``statistics`` as in statistics.py, or why there are none."""

    statistics: Statistics | None = None
    about: str


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables; ``row`` numbers the rows of each. ``statistics`` are of each split."""

    annotations: pd.DataFrame
    images: pd.DataFrame
    classes: pd.DataFrame
    splits: pd.DataFrame
    drift: pd.DataFrame
    statistics: Mapping[str, Statistics]
    reference: str

    def frame(self, name: str) -> pd.DataFrame:
        """Return the table of that name."""
        found: pd.DataFrame = getattr(self, name)
        return found


def build_tables(
    dataset: DetectionDataset,
    config: ValidateConfig,
    reference: Reference,
    seen: Sequence[Seen] | None = None,
) -> Tables:
    """Read all annotation files and decode all images.

    Args:
        dataset: what is validated.
        config: gives the likeness of images and the properties that are compared.
        reference: what the training split is compared with.
        seen: what the image files are known to be, in the order of the annotation files; None decodes them.

    Raises:
        DataError: an annotation file or the manifest is not what its format says, so no table can be made.
    """
    contents = {split: read_content(dataset.annotation_file(split)) for split in dataset.splits}
    looked = look_at_all(dataset, contents) if seen is None else seen
    images = build_images(dataset, contents, looked, config.near_duplicate_bits)
    annotations = build_annotations(contents)
    del contents
    names = dict(zip(dataset.category_ids, dataset.names, strict=True))
    statistics = {}
    for split in dataset.splits:
        boxes, pictures = (table[table["split"] == split] for table in (annotations, images))
        statistics[split] = describe_split(boxes, pictures, names)
    return Tables(
        annotations=annotations,
        images=images,
        classes=_classes(dataset, annotations),
        splits=_splits(images, annotations, statistics),
        drift=_drift(statistics["train"], reference.statistics, config.max_drift),
        statistics=statistics,
        reference=reference.about,
    )


def _classes(dataset: DetectionDataset, annotations: pd.DataFrame) -> pd.DataFrame:
    """Count the boxes of each class in each split; the rarity is training's alone."""
    import pandas as pd

    records: list[tuple[Any, ...]] = []
    for split in dataset.splits:
        shown = annotations[(annotations["split"] == split) & (annotations["iscrowd"] != 1)]
        found = shown["category_id"].value_counts()
        counts = [int(found.get(number, 0)) for number in dataset.category_ids]
        for number, name, count in zip(dataset.category_ids, dataset.names, counts, strict=True):
            # A class without boxes is another rule's.
            rarer = max(counts) / count if count and split == "train" else 1.0
            records.append((len(records), number, name, split, count, rarer))
    return pd.DataFrame(records, columns=list(CLASS_COLUMNS))


def _splits(
    images: pd.DataFrame, annotations: pd.DataFrame, statistics: Mapping[str, Statistics]
) -> pd.DataFrame:
    import pandas as pd

    records = []
    for row, (split, found) in enumerate(statistics.items()):
        ids = images.loc[images["split"] == split, "image_id"]
        labelled = set(annotations.loc[annotations["split"] == split, "image_id"])
        apart = [distance(statistics["train"][key], found[key]) for key in ("classes", "box_sizes")]
        share = 1 - float(ids.isin(labelled).mean()) if len(ids) else 1.0
        records.append((row, split, len(ids), sum(found["classes"].values()), share, *apart))
    return pd.DataFrame(records, columns=list(SPLIT_COLUMNS))


def _drift(own: Statistics, reference: Statistics | None, limits: Mapping[str, float]) -> pd.DataFrame:
    import pandas as pd

    records = [
        (row, feature, distance(reference[feature], own[feature]), limit)
        for row, (feature, limit) in enumerate(limits.items())
        if reference is not None and feature in reference
    ]
    return pd.DataFrame(records, columns=list(DRIFT_COLUMNS))
