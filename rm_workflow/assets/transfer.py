"""``<recipe>_transfer``: whether the benchmarks of a sweep tell how good its runs are at picking right solutions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.assets.best import runs_of_recipe
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.publishing import Events, Metadata, Workplace, define_asset, image, markdown, publish, table
from rm_workflow.catalog.models import Catalog, Recipe, Transfer
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.errors import UserError
from rm_workflow.evaluation.run_table import Run
from rm_workflow.evaluation.transfer import LEAST_TO_TELL, gold_accuracy, points_of, transfer_rows
from rm_workflow.reporting import plots

TRANSFER = "transfer.json"
READING = (
    "A row is a benchmark (`overall`) or one of its domains; a point of its correlations is a run, by its score there "
    "and by how often it picks a right solution among n. Intervals (95 %) are of the bootstrap over runs and over the "
    "problems of the gold set; the items of the benchmark are not drawn. Runs of one sweep that differ by little more "
    f"than their seed tell little. Of fewer than {LEAST_TO_TELL} runs nothing is concluded."
)


def transfer_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the comparison of one sweep's scores with best-of-n."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.recipe(of.name)
        planned = workplace.flow.transfer(recipe)
        runs = runs_of_recipe(workplace.flow, workplace.store, recipe)
        transfer = _transfer(recipe)
        scored = [run.scores for run in runs if run.scores and run.headline(transfer.gold)]
        if not scored:
            raise UserError(
                f"no run of recipe '{of.name}' is scored on {transfer.gold} yet; run one first: rmw run {of.name} "
                "--sweep"
            )
        held = (workplace.store.take(scores.asset, scores.version) for scores in scored)
        request = Request(
            asset=planned.asset,
            kind=planned.kind,
            code_version=CODE_VERSIONS[planned.kind].version,
            parameters=dict(planned.parameters),
            inputs=tuple(scores for scores in held if scores),
            requested=planned.requested,
            overridden=workplace.overridden,
        )

        def build(out: Path) -> Built:
            facts = {"transfer": transfer_of_runs(workplace.store, recipe, runs)}
            (out / TRANSFER).write_text(json.dumps(facts, indent=1, sort_keys=True), "utf-8")
            return Built(facts)

        yield from publish(context, workplace, request, build, _describe)

    transfer = _transfer(of)
    return define_asset(
        Flow(catalog).transfer(of),
        catalog,
        body,
        group=of.name,
        kinds={"json"},
        description=(
            f"How the scores of the runs of `{of.name}` go with best-of-{transfer.n or 'all'} on `{transfer.gold}`, "
            "whose solutions are known to be right or wrong."
        ),
        checks=(),
    )


def transfer_of_runs(store: ArtifactStore, recipe: Recipe, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row for each benchmark and domain, none for a recipe without a gold set or where no run is scored on it.

    Each has what ``transfer_rows`` gives, ``gold``, ``best_of``, and ``points``: run, score, accuracy on the gold set.
    """
    transfer = recipe.sweep.transfer if recipe.sweep else None
    if transfer is None:
        return []
    points = points_of(store, runs, recipe.evaluation.evaluate_on, transfer.gold, transfer.n)
    return [
        {
            **row,
            "gold": transfer.gold,
            "best_of": transfer.n,
            "points": [
                [point.run, point.scores[row["benchmark"], row["figure"]], gold_accuracy(point)]
                for point in points
                if (row["benchmark"], row["figure"]) in point.scores
            ],
        }
        for row in transfer_rows(points)
    ]


def _transfer(recipe: Recipe) -> Transfer:
    assert recipe.sweep is not None, "only sweeps compare runs"
    assert recipe.sweep.transfer is not None, "only sweeps with a gold set have this asset"
    return recipe.sweep.transfer


def _describe(artifact: Artifact) -> Metadata:
    rows: list[Mapping[str, Any]] = artifact.facts["transfer"]
    if not rows:
        return {"runs_compared": 0, "reading": markdown(READING)}
    gold, best_of = rows[0]["gold"], rows[0]["best_of"] or "all"
    panels = {f"{row['benchmark']}: {row['figure']}": [tuple(point) for point in row["points"]] for row in rows}
    shown = [{key: value for key, value in row.items() if key not in ("points", "gold", "best_of")} for row in rows]
    return {
        "runs_compared": max(row["n"] for row in rows),
        "gold": f"best of {best_of} on {gold}",
        "correlations": table(shown),
        "plot_scores_against_gold": image(
            plots.scores_against(panels, f"best of {best_of}", artifact.asset), "scores against gold"
        ),
        "reading": markdown(READING),
    }
