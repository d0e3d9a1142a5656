"""``raw_<source>``: a raw data set parsed to prompts, responses and occurrences."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from rm_workflow import hub
from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.access import check_access_of_run
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    define_asset,
    external_files,
    markdown,
    origin,
    publish,
    table,
)
from rm_workflow.catalog.models import Catalog
from rm_workflow.preferences import raw, show

CHECKS = (("rows_accounted_for", "Every row that was read is used or dropped under a named rule."),)


def _labels(num_labels: Mapping[str, Mapping[str, int]]) -> Metadata:
    """Return the numbers of labels by kind and value, or nothing for a source without labels."""
    rows = [
        {"kind": kind, "value": value, "labels": number}
        for kind, by_value in num_labels.items()
        for value, number in by_value.items()
    ]
    return {"labels": table(rows)} if rows else {}


def raw_asset(catalog: Catalog, name: str) -> dg.AssetsDefinition:
    """Define the asset of one source."""
    source = catalog.sources[name]
    planned = Flow(catalog).raw(name)

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        check_access_of_run(context, workplace)
        files = hub.resolve_files(source, workplace.settings, f"sources.yaml: source '{name}'")
        request = planned.request((), overridden=False, external_files=external_files(files))

        def build(out: Path) -> Built:
            return raw.build_raw(name, source, files, out)

        def describe(artifact: Artifact) -> Metadata:
            facts = artifact.facts
            return {
                "dagster/row_count": facts["used"],
                "rows_read": facts["rows"],
                "rows_dropped": facts["rows"] - facts["used"],
                "dropped_by_rule": table([{"rule": rule, "rows": number} for rule, number in facts["dropped"].items()]),
                **_labels(facts["num_labels"]),
                "files": table([{"file": file.name, "sha256": file.sha256} for file in files]),
                "licence": source.licence,
                "dropped_rows": markdown(show.as_markdown(show.dropped_rows(artifact.folder, [artifact.folder], 5))),
            }

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        planned,
        catalog,
        body,
        group="raw",
        kinds={"parquet", "python"},
        description=(
            f"{source.description or name}\n\nFrom {origin(source)}, adapter `{source.adapter}`, "
            f"licence {source.licence}."
        ),
        checks=CHECKS,
    )
