"""``<recipe>_best``: the table of a recipe's runs with intervals and the spread of seeds, and which one is main."""

import json
from pathlib import Path

import dagster as dg

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    define_asset,
    image,
    markdown,
    publish,
    recipe_link,
    table,
)
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Promotion, Recipe
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.errors import UserError
from rm_workflow.evaluation.attribution import earned_by_parts
from rm_workflow.evaluation.promotion import Decision, consider, ranked, selection_told
from rm_workflow.evaluation.run_table import Run, flat_rows, run_rows, seed_rows, settings_of
from rm_workflow.pages import addresses
from rm_workflow.reporting import plots
from rm_workflow.reporting.words import with_interval

RUNS = "runs.json"


def best_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the table of one recipe's runs."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        recipe = workplace.recipe(of.name)
        planned = workplace.flow.best(recipe)
        promotion = _promotion(recipe)
        runs = runs_of_recipe(workplace.flow, workplace.store, recipe)
        request = _request(workplace, planned, promotion, runs)
        benchmarks = list(dict.fromkeys([promotion.metric, *recipe.evaluation.evaluate_on]))

        def build(out: Path) -> Built:
            rows = run_rows(runs, benchmarks)
            seeds = {name: seed_rows(of_benchmark) for name, of_benchmark in rows.items()}
            earned = earned_by_parts(workplace.store, recipe, runs, benchmarks)
            facts = {"metric": promotion.metric, "runs": rows, "seeds": seeds, "attribution": earned}
            (out / RUNS).write_text(json.dumps(facts, indent=1, sort_keys=True), "utf-8")
            return Built(facts)

        def describe(artifact: Artifact) -> Metadata:
            decision = _decide(context, workplace, recipe, promotion, runs)
            return {
                **_describe_decision(decision, promotion, runs),
                "lineage_page": recipe_link(recipe.name),
                **_describe_runs(artifact),
            }

        yield from publish(context, workplace, request, build, describe)

    return define_asset(
        Flow(catalog).best(of),
        catalog,
        body,
        group=of.name,
        kinds={"json"},
        description=(
            f"The runs of `{of.name}` side by side, and which of them is main: the best on "
            f"`{_promotion(of).metric}` that is not worse than the present main. "
            f"[Runs with their intervals]({addresses.recipe(of.name)})"
        ),
        checks=(),
    )


def runs_of_recipe(flow: Flow, store: ArtifactStore, recipe: Recipe) -> list[Run]:
    """Return the runs of a recipe, each with its newest scores, those of retired keys last."""
    asset = f"{recipe.name}_scores"
    if recipe.sweep is None:
        return [Run(recipe.name, settings_of(recipe, recipe), flow.scores(recipe).latest(store))]
    runs = [
        Run(key, settings_of(recipe, run), flow.scores(run).latest(store))
        for key, run in sweeps.runs_of(recipe).items()
    ]
    retired = [
        Run(key, {}, store.latest(asset, partition=key), is_retired=True)
        for key in sweeps.partition_keys(recipe)
        if key in recipe.sweep.retired
    ]
    return [*runs, *retired]


def _promotion(recipe: Recipe) -> Promotion:
    assert recipe.promoting is not None, "only recipes with a main have this asset"
    return recipe.promoting


def _request(workplace: Workplace, planned: Planned, promotion: Promotion, runs: list[Run]) -> Request:
    """Return the request: made from the scores of the best runs, which are kept with it; of the rest it says which.

    Raises:
        UserError: no run has scores.
    """
    if not any(run.scores for run in runs):
        raise UserError(
            f"no run of recipe '{planned.name}' has scores yet; run one first: rmw run {planned.name} --sweep"
        )
    best = [run.scores for run in ranked(runs, promotion.metric)[: promotion.keep] if run.scores]
    held = [workplace.store.take(scores.asset, scores.version) for scores in best]
    stated = {
        **planned.parameters,
        "runs": {run.key: {**run.settings, "scores": run.scores.version if run.scores else None} for run in runs},
    }
    return Request(
        asset=planned.asset,
        kind=planned.kind,
        code_version=CODE_VERSIONS[planned.kind].version,
        parameters=stated,
        inputs=tuple(scores for scores in held if scores),
        requested=planned.requested,
        overridden=workplace.overridden,
    )


def _decide(
    context: dg.AssetExecutionContext, workplace: Workplace, recipe: Recipe, promotion: Promotion, runs: list[Run]
) -> Decision:
    # What a run with changes to the recipe makes is never the latest of a name, so it is no main either.
    if workplace.overridden:
        return Decision(None, None, False, "the recipe was changed for this run (--set), so main stays as it is")
    decision = consider(workplace.store, recipe.name, promotion, runs, context.run.run_id)
    workplace.lineage.catch_up()
    return decision


def _describe_decision(decision: Decision, promotion: Promotion, runs: list[Run]) -> Metadata:
    main = next((run for run in runs if run.checkpoint == decision.main), None)
    number = len(ranked(runs, promotion.metric))
    score = with_interval(main.headline(promotion.metric)) if main else None
    return {
        "main": decision.main or "none",
        **({f"main_on_{promotion.metric}": score} if score else {}),
        "why": decision.reason,
        **({"selection": told} if (told := selection_told(number, promotion.metric)) else {}),
        "runs_scored": sum(run.scores is not None for run in runs),
        "runs_in_all": len(runs),
        **(
            {"candidate_minus_main": table([{"benchmark": name, **found} for name, found in compared.items()])}
            if (compared := decision.comparisons)
            else {}
        ),
    }


def _describe_runs(artifact: Artifact) -> Metadata:
    facts = artifact.facts
    rows = facts["runs"][facts["metric"]]
    scored = [(row["run"], row["score"], row["ci_low"], row["ci_high"]) for row in rows if row["score"] is not None]
    drawn = {"plot_runs": image(plots.scores_with_intervals(scored, facts["metric"]), "runs")} if scored else {}
    return {
        **drawn,
        **{f"runs_on_{name}": table(flat_rows(of_benchmark)) for name, of_benchmark in facts["runs"].items()},
        **({"what_each_part_earns": table(facts["attribution"])} if facts["attribution"] else {}),
        **{f"seeds_on_{name}": table(of_benchmark) for name, of_benchmark in facts["seeds"].items() if of_benchmark},
        "reading": markdown(
            "Intervals of runs are over items (95 %); those of `seeds_on_…` are of the mean over seeds. `n` is the "
            "number of items."
        ),
    }
