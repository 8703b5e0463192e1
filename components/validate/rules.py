"""The rules, as data: what each demands, of what, and whether it blocks."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, WARN, OFF = "block", "warn", "off"
SEVERITIES = (BLOCK, WARN, OFF)
ANNOTATIONS, IMAGES, CLASSES = "annotations", "images", "classes"
TABLES = (ANNOTATIONS, IMAGES, CLASSES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One demand on the rows of a table.

    Attributes:
        name: what reports and params call it.
        table: annotations, images or classes: a row for each.
        severity: block stops the pipeline, warn is only reported; params can change it.
        demand: what must hold, for people.
    """

    name: str
    table: str
    severity: str
    demand: str


RULES: tuple[Rule, ...] = (
    Rule(name="annotation_schema", table=ANNOTATIONS, severity=BLOCK, demand="values have COCO's types"),
    Rule(name="annotation_complete", table=ANNOTATIONS, severity=BLOCK, demand="no value is missing"),
    Rule(name="annotation_id_unique", table=ANNOTATIONS, severity=BLOCK, demand="ids of annotations differ"),
    Rule(name="annotation_image_known", table=ANNOTATIONS, severity=BLOCK, demand="its image is listed"),
    Rule(name="annotation_class_known", table=ANNOTATIONS, severity=BLOCK, demand="its category is listed"),
    Rule(
        name="annotation_unique", table=ANNOTATIONS, severity=WARN, demand="no two annotations are the same"
    ),
    Rule(name="box_finite", table=ANNOTATIONS, severity=BLOCK, demand="coordinates are finite numbers"),
    Rule(name="box_positive", table=ANNOTATIONS, severity=BLOCK, demand="width and height are positive"),
    Rule(name="box_inside", table=ANNOTATIONS, severity=BLOCK, demand="the box is inside its image"),
    Rule(
        name="box_not_tiny", table=ANNOTATIONS, severity=WARN, demand="the box is large enough to learn from"
    ),
    Rule(
        name="area_plausible",
        table=ANNOTATIONS,
        severity=WARN,
        demand="the area is positive and fits the box",
    ),
    Rule(name="image_schema", table=IMAGES, severity=BLOCK, demand="values have COCO's types"),
    Rule(name="image_complete", table=IMAGES, severity=BLOCK, demand="no value is missing"),
    Rule(name="image_id_unique", table=IMAGES, severity=BLOCK, demand="ids of images differ"),
    Rule(name="image_decodes", table=IMAGES, severity=BLOCK, demand="the file is there and decodes"),
    Rule(name="image_size_recorded", table=IMAGES, severity=BLOCK, demand="its size is the annotated one"),
    Rule(name="image_as_written", table=IMAGES, severity=BLOCK, demand="the file is the one in the manifest"),
    Rule(name="image_in_one_split", table=IMAGES, severity=BLOCK, demand="no other split has the same image"),
    Rule(name="image_unique", table=IMAGES, severity=WARN, demand="its split has the image once"),
    Rule(name="class_has_instances", table=CLASSES, severity=WARN, demand="training shows it often enough"),
)
RULE_NAMES = tuple(rule.name for rule in RULES)
