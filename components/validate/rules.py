"""The rules, as data: what each demands, of what, and whether it blocks."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, WARN, OFF = "block", "warn", "off"
SEVERITIES = (BLOCK, WARN, OFF)
ANNOTATIONS, IMAGES, CLASSES, SPLITS, DRIFT = "annotations", "images", "classes", "splits", "drift"
FEATURES = ("classes", "box_sizes", "box_shapes", "boxes_per_image", "image_sizes", "brightness")
"""Properties whose distributions are compared with the champion's; `statistics` counts them."""
TABLES = (ANNOTATIONS, IMAGES, CLASSES, SPLITS, DRIFT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One demand on the rows of a table.

    Attributes:
        name: what reports and params call it.
        table: a row for each annotation, image, class of a split, split, or compared property (drift).
        severity: block stops the pipeline, warn is only reported; params can change it.
        demand: what must hold, for people.
        detail: the column whose value says what is wrong; the box or the image's size if empty.
    """

    name: str
    table: str
    severity: str
    demand: str
    detail: str = ""


def _rule(name: str, table: str, severity: str, demand: str, detail: str = "") -> Rule:
    return Rule(name=name, table=table, severity=severity, demand=demand, detail=detail)


RULES: tuple[Rule, ...] = (
    _rule("annotation_schema", ANNOTATIONS, BLOCK, "values have COCO's types", "malformed"),
    _rule("annotation_complete", ANNOTATIONS, BLOCK, "no value is missing"),
    _rule("annotation_id_unique", ANNOTATIONS, BLOCK, "ids of annotations differ"),
    _rule("annotation_image_known", ANNOTATIONS, BLOCK, "its image is listed"),
    _rule("annotation_class_known", ANNOTATIONS, BLOCK, "its category is listed", "category_id"),
    _rule("annotation_unique", ANNOTATIONS, WARN, "no two of a class cover the same place", "twin_iou"),
    _rule("box_finite", ANNOTATIONS, BLOCK, "coordinates are finite numbers"),
    _rule("box_positive", ANNOTATIONS, BLOCK, "width and height are positive"),
    _rule("box_inside", ANNOTATIONS, BLOCK, "the box is inside its image", "beyond_image"),
    _rule("box_not_tiny", ANNOTATIONS, WARN, "the box is large enough to learn from"),
    _rule("area_plausible", ANNOTATIONS, WARN, "the area is positive and fits the box", "area_share"),
    _rule("polygon_valid", ANNOTATIONS, WARN, "outlines have three points and an area", "polygon"),
    _rule("image_schema", IMAGES, BLOCK, "values have COCO's types", "malformed"),
    _rule("image_complete", IMAGES, BLOCK, "no value is missing"),
    _rule("image_id_unique", IMAGES, BLOCK, "ids of images differ"),
    _rule("image_decodes", IMAGES, BLOCK, "the file is there and decodes", "problem"),
    _rule("image_size_recorded", IMAGES, BLOCK, "its size is the annotated one"),
    _rule("image_as_written", IMAGES, BLOCK, "the file is the one in the manifest"),
    _rule("image_upright", IMAGES, WARN, "no tag turns it for some readers only", "orientation"),
    _rule("image_in_one_split", IMAGES, BLOCK, "no other split has the same image", "sha256"),
    _rule("image_unique", IMAGES, WARN, "its split has the image once", "sha256"),
    _rule("image_looks_in_one_split", IMAGES, BLOCK, "no other split has an image like it", "looks_like"),
    _rule("image_looks_unique", IMAGES, WARN, "its split has no other image like it", "looks_like"),
    _rule("class_has_instances", CLASSES, WARN, "the split shows it often enough", "instances"),
    _rule("class_balanced", CLASSES, WARN, "it is not too rare beside the largest class", "times_rarer"),
    _rule("split_has_boxes", SPLITS, BLOCK, "training and validation show something", "boxes"),
    _rule("split_labelled", SPLITS, WARN, "few images are without boxes", "unlabelled"),
    _rule("split_classes_alike", SPLITS, WARN, "its class shares are like training's", "class_distance"),
    _rule("split_sizes_alike", SPLITS, WARN, "its box sizes are like training's", "size_distance"),
    _rule("drift_small", DRIFT, WARN, "training data are like those of the champion", "distance"),
)
RULE_NAMES = tuple(rule.name for rule in RULES)
