"""``bench_<name>``: an evaluation set parsed to prompts, responses and items."""

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
    origin,
    publish,
    table,
)
from rm_workflow.catalog.models import Catalog
from rm_workflow.evaluation import benchmarks

CHECKS = (("items_accounted_for", "Every row of the benchmark belongs to one item."),)


def benchmark_asset(catalog: Catalog, name: str) -> dg.AssetsDefinition:
    """Define the asset of one benchmark."""
    benchmark = catalog.benchmarks[name]
    planned = Flow(catalog).benchmark(name)

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        check_access_of_run(context, workplace)
        files = hub.resolve_files(benchmark, workplace.settings, f"benchmarks.yaml: benchmark '{name}'")
        request = planned.request((), overridden=False, external_files=external_files(files))

        def build(out: Path) -> Built:
            return benchmarks.build_benchmark(name, benchmark, files, out)

        def describe(artifact: Artifact) -> Metadata:
            facts = artifact.facts
            return {
                "dagster/row_count": facts["items"],
                "subsets": table([{"subset": subset, "items": n} for subset, n in facts["subsets"].items()]),
                "licence": benchmark.licence,
            }

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        planned,
        catalog,
        body,
        group="benchmarks",
        kinds={"parquet", "python"},
        description=(
            f"{benchmark.description or name}\n\nFrom {origin(benchmark)}, scored by the rule `{benchmark.scoring}`."
        ),
        checks=CHECKS,
    )
