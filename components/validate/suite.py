"""The rules as Great Expectations suites, and their results."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate.config import ValidateConfig
from components.validate.rules import (
    ANNOTATIONS,
    BLOCK,
    CLASSES,
    DRIFT,
    IMAGES,
    OFF,
    RULES,
    SPLITS,
    TABLES,
    Rule,
)
from components.validate.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

_SITE = "offline"
_LEARNED = ("train", "val")  # splits that training uses
_AREA_SLACK = 1.01  # masks are counted in whole pixels, boxes are not
_REQUIRED = {
    ANNOTATIONS: ("annotation_id", "image_id", "category_id", "x", "y", "w", "h", "area", "iscrowd"),
    IMAGES: ("image_id", "file", "width", "height"),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a rule: ``rows`` of its table break it.

    ``note`` says why the check itself failed, ``skipped`` why there was nothing to check.
    """

    rule: Rule
    severity: str
    rows: tuple[int, ...]
    note: str = ""
    skipped: str = ""

    @property
    def success(self) -> bool:
        """Whether the rule holds."""
        return not self.rows and not self.note

    @property
    def blocks(self) -> bool:
        """Whether the rule stops the pipeline, if nothing is set aside."""
        return not self.success and self.severity == BLOCK


def check(tables: Tables, category_ids: tuple[int, ...], config: ValidateConfig, docs: Path) -> list[Outcome]:
    """Check every rule that is not off and write Great Expectations' Data Docs to the folder ``docs``."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    context.delete_data_docs_site("local_site")
    context.add_data_docs_site(site_name=_SITE, site_config=_site(docs))
    source = context.data_sources.add_pandas("dataset")
    severities = {rule.name: config.severity.get(rule.name, rule.severity) for rule in RULES}
    broken: dict[str, tuple[set[int], str]] = {}
    for table in TABLES:
        frame = tables.frame(table)
        expectations = _expectations(table, tuple(frame.columns), category_ids, config)
        active = {name: found for name, found in expectations.items() if severities[name] != OFF}
        if active and len(frame):
            results = _validate(context, source, table, (frame, _with_meta(active, severities)))
            broken |= _by_rule(results)
    context.build_data_docs(site_names=[_SITE])
    outcomes = []
    for rule in RULES:
        if severities[rule.name] != OFF:
            rows, note = broken.get(rule.name, (set(), ""))
            skipped = tables.reference if rule.table == DRIFT and not len(tables.drift) else ""
            outcomes.append(
                Outcome(
                    rule=rule,
                    severity=severities[rule.name],
                    rows=tuple(sorted(rows)),
                    note=note,
                    skipped=skipped,
                )
            )
    return outcomes


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _expectations(
    table: str, columns: tuple[str, ...], category_ids: tuple[int, ...], config: ValidateConfig
) -> Mapping[str, list[Any]]:
    """Return the expectations of each rule of a table."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    if table == CLASSES:
        return _of_classes(config)
    if table == SPLITS:
        between = gxe.ExpectColumnValuesToBeBetween
        return {
            "split_has_boxes": [
                between(column="boxes", min_value=1, row_condition=Column("split") == split)
                for split in _LEARNED
            ],
            "split_labelled": [between(column="unlabelled", max_value=config.max_unlabelled)],
            "split_classes_alike": [between(column="class_distance", max_value=config.max_split_distance)],
            "split_sizes_alike": [between(column="size_distance", max_value=config.max_split_distance)],
        }
    if table == DRIFT:
        at_most = gxe.ExpectColumnPairValuesAToBeGreaterThanB
        return {"drift_small": [at_most(column_A="threshold", column_B="distance", or_equal=True)]}
    kind = "annotation" if table == ANNOTATIONS else "image"
    shared = {
        f"{kind}_schema": [
            gxe.ExpectTableColumnsToMatchSet(column_set=list(columns)),
            gxe.ExpectColumnValuesToBeInSet(column="malformed", value_set=[""]),
        ],
        f"{kind}_complete": [gxe.ExpectColumnValuesToNotBeNull(column=name) for name in _REQUIRED[table]],
        f"{kind}_id_unique": [gxe.ExpectColumnValuesToBeUnique(column=f"{kind}_id")],
    }
    return shared | (_of_annotations(category_ids, config) if table == ANNOTATIONS else _of_images())


def _of_classes(config: ValidateConfig) -> dict[str, list[Any]]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    enough = [
        gxe.ExpectColumnValuesToBeBetween(
            column="instances", min_value=count, row_condition=Column("split") == split
        )
        for split, count in config.min_instances.items()
    ]
    rare = gxe.ExpectColumnValuesToBeBetween(column="times_rarer", max_value=config.max_times_rarer)
    return {"class_has_instances": enough, "class_balanced": [rare]}


def _of_annotations(category_ids: tuple[int, ...], config: ValidateConfig) -> dict[str, list[Any]]:
    import great_expectations.expectations as gxe

    between = gxe.ExpectColumnValuesToBeBetween
    one_of = gxe.ExpectColumnValuesToBeInSet
    return {
        "annotation_image_known": [one_of(column="image_known", value_set=[True])],
        "annotation_class_known": [one_of(column="category_id", value_set=list(category_ids))],
        "annotation_unique": [between(column="twin_iou", max_value=config.duplicate_iou, strict_max=True)],
        "box_finite": [one_of(column="finite", value_set=[True])],
        "box_positive": [between(column="shorter_side", min_value=0, strict_min=True)],
        "box_inside": [between(column="beyond_image", max_value=config.box_tolerance)],
        "box_not_tiny": [between(column="shorter_side", min_value=config.min_box_side)],
        "area_plausible": [between(column="area_share", min_value=0, strict_min=True, max_value=_AREA_SLACK)],
        "polygon_valid": [one_of(column="polygon", value_set=[""])],
    }


def _of_images() -> dict[str, list[Any]]:
    import great_expectations.expectations as gxe

    between = gxe.ExpectColumnValuesToBeBetween
    one_of = gxe.ExpectColumnValuesToBeInSet
    return {
        "image_decodes": [one_of(column="problem", value_set=[""])],
        "image_size_recorded": [one_of(column="size_matches", value_set=[True])],
        "image_as_written": [one_of(column="as_written", value_set=[True])],
        "image_upright": [one_of(column="orientation", value_set=[1])],
        "image_in_one_split": [between(column="splits_with_it", max_value=1)],
        "image_unique": [between(column="times_in_split", max_value=1)],
        "image_looks_in_one_split": [one_of(column="like_elsewhere", value_set=[""])],
        "image_looks_unique": [between(column="like_in_split", max_value=0)],
    }


def _with_meta(expectations: Mapping[str, list[Any]], severities: Mapping[str, str]) -> list[Any]:
    """Mark expectations with the rule they belong to; the Data Docs show what it demands."""
    demands = {rule.name: rule.demand for rule in RULES}
    marked = []
    for name, items in expectations.items():
        for item in items:
            item.meta = {"rule": name}
            item.notes = f"{name} ({severities[name]}): {demands[name]}"
            item.severity = "critical" if severities[name] == BLOCK else "warning"
            marked.append(item)
    return marked


def _validate(context: Any, source: Any, table: str, content: tuple[pd.DataFrame, list[Any]]) -> list[Any]:
    """Run the expectations of one table; returns a result for each."""
    import great_expectations as gx

    frame, expectations = content
    batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=table, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=table,
            validation_definitions=[definition],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": frame})
    return [result for run in outcome.run_results.values() for result in run.results]


def _by_rule(results: list[Any]) -> dict[str, tuple[set[int], str]]:
    """Gather the rows that break each rule. A rule that raised is broken too: it says nothing of the data."""
    broken: dict[str, tuple[set[int], str]] = {}
    for result in results:
        if result.success:
            continue
        name = result.expectation_config.meta["rule"]
        rows, note = broken.get(name, (set(), ""))
        listed = (result.result or {}).get("unexpected_index_list") or []
        rows |= {int(item["row"]) for item in listed}
        if not listed:
            note = _explain(result)
        broken[name] = (rows, note)
    return broken


def _explain(result: Any) -> str:
    """Say why an expectation failed without naming rows."""
    text = str(result.exception_info) if "True" in str(result.exception_info) else str(result.result)
    return f"{result.expectation_config.type}: {' '.join(text.split())[:300]}"
