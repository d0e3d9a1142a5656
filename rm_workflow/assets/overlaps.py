"""``<recipe>_overlap``: a mixture against the benchmarks of its recipe, with a verdict for each."""

from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.mixtures import guard_files, raw_folders
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, markdown, publish, table
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.preferences import overlap, show

CHECKS = (
    ("every_hit_names_a_train_pair", "Every hit is written with a train pair of the mixture that holds its text."),
)
SHOWN_ROWS = 10


def overlap_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the overlap of one recipe's mixture with its benchmarks."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.asked(of, context)
        planned = workplace.flow.overlap(recipe)
        inputs = planned.inputs(workplace.store)
        mixture = inputs[f"{recipe.data_name}_mixture"]
        benchmarks = {
            upstream.name: inputs[upstream.asset].folder for upstream in planned.upstream_of_kind("benchmark")
        }
        request = planned.request(tuple(inputs.values()), workplace.overridden, guard_files(recipe.mixture))

        def build(out: Path) -> Built:
            raws = raw_folders(workplace, mixture)
            with_test = bool(planned.parameters["with_test"])
            return overlap.build_overlap(recipe.mixture, mixture.folder, raws, benchmarks, with_test, out)

        yield from publish(context, workplace, request, build, _describe)

    planned = Flow(catalog).overlap(of)
    names = [upstream.name for upstream in planned.upstream_of_kind("benchmark")]
    return define_asset(
        planned,
        catalog,
        body,
        group=of.name,
        kinds={"duckdb", "parquet"},
        description=(
            "Texts of the train pairs that are texts of "
            f"{', '.join(f'`{name}`' for name in [*names, *(['test'] if planned.parameters['with_test'] else [])])}: "
            "`clean`, `leaky` or `unknown` for each."
        ),
        checks=CHECKS,
    )


def verdicts(artifact: Artifact) -> dict[str, str]:
    """Return clean, leaky or unknown for each benchmark of an overlap artifact."""
    return {name: found["verdict"] for name, found in artifact.facts["benchmarks"].items()}


def _describe(artifact: Artifact) -> Metadata:
    found = artifact.facts["benchmarks"]
    return {
        **{f"{name}_verdict": verdict for name, verdict in verdicts(artifact).items()},
        "texts_found": artifact.facts["hits"],
        "verdicts": table([{"benchmark": name, **columns} for name, columns in found.items()]),
        "hits": markdown(show.as_markdown(overlap.overlap_rows(artifact.folder, SHOWN_ROWS))),
    }
