"""``pairs_<set>``: one source put through an ordered list of rules."""

from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, image, markdown, publish, table
from rm_workflow.catalog.models import Catalog
from rm_workflow.preferences import pairs, show
from rm_workflow.reporting import plots

CHECKS = (
    ("candidates_accounted_for", "Every candidate is kept or dropped under a named rule."),
    ("no_pair_is_identical", "No kept pair has the same text on both sides."),
)


def pairs_asset(catalog: Catalog, name: str) -> dg.AssetsDefinition:
    """Define the asset of one pair set."""
    pair_set = catalog.pair_sets[name]
    planned = Flow(catalog).pairs(name)

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        raw = next(iter(planned.inputs(workplace.store).values()))
        request = planned.request((raw,), overridden=False)

        def build(out: Path) -> Built:
            return pairs.build_pair_set(name, pair_set, raw.folder, out)

        def describe(artifact: Artifact) -> Metadata:
            return describe_pairs(artifact, [raw.folder])

        yield from publish(context, workplace, request, build, describe)

    rules = ", ".join(f"`{rule.name}`" for rule in pair_set.rules)
    return define_asset(
        planned,
        catalog,
        body,
        group="pairs",
        kinds={"duckdb", "parquet"},
        description=f"{pair_set.description or name}\n\nRules in order: {rules}.",
        checks=CHECKS,
    )


def describe_pairs(artifact: Artifact, raw_folders: list[Path], rows: str = "pairs") -> Metadata:
    """Return counts, funnel and example rows of a pair set or mixture.

    Args:
        rows: what is counted: pairs, or responses of a mixture of responses.
    """
    facts = artifact.facts
    return {
        "dagster/row_count": facts["kept"],
        "candidates": facts["candidates"],
        f"{rows}_kept": facts["kept"],
        f"{rows}_dropped": facts["candidates"] - facts["kept"],
        "dropped_by_rule": table([{"rule": rule, rows: number} for rule, number in facts["dropped"].items()]),
        "plot_funnel": image(plots.funnel(funnel_steps(artifact), artifact.asset), "funnel"),
        "kept_rows": markdown(show.as_markdown(show.kept_rows(artifact.folder, raw_folders, 5))),
        "dropped_rows": markdown(show.as_markdown(show.dropped_rows(artifact.folder, raw_folders, 5))),
    }


def funnel_steps(artifact: Artifact) -> list[tuple[str, int, int]]:
    """Return (rule, dropped, left) in the order of the rules, candidates first."""
    left = artifact.facts["candidates"]
    steps = [("candidates", 0, left)]
    for rule, dropped in artifact.facts["dropped"].items():
        left -= dropped
        steps.append((rule, dropped, left))
    return steps
