"""Whether hub, launcher and gold set would give what a run needs, asked at its start and not after hours of work."""

from collections.abc import Sequence

import dagster as dg

from rm_workflow import hub
from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.instance import PROCESS_TAG
from rm_workflow.assets.publishing import Workplace
from rm_workflow.catalog.loading import place_in_recipe
from rm_workflow.catalog.models import Catalog, Location, Recipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation.transfer import fewest_candidates
from rm_workflow.keys import content_id
from rm_workflow.settings import Settings
from rm_workflow.training import launchers

RECIPE_TAG = "rm_workflow/recipe"
RECIPE_VERSION_TAG = "rm_workflow/recipe_version"
VERSION_DIGITS = 12
LAUNCHED = ("tokens", "checkpoint", "scores")
ROOTS = ("raw", "benchmark", "base")
# The run of this process that may go on: its steps follow each other here, or each has a process of its own.
_CHECKED: dict[str, str] = {}


def recipe_tags(recipe: Recipe) -> dict[str, str]:
    """Return the tags by which the web UI finds the runs of a recipe, and tells its versions apart."""
    version = content_id(recipe.model_dump(mode="json"))[:VERSION_DIGITS]
    return {RECIPE_TAG: recipe.name, RECIPE_VERSION_TAG: version}


def check_access(planned: Sequence[Planned], catalog: Catalog, settings: Settings) -> None:
    """Ask the hub for what is not on this machine yet, and whether what is to train can be started.

    Raises:
        UserError: a model or data set is gated, private or not there, the hub cannot be reached, or there is no such
            launcher or it is not installed.
    """
    if any(step.kind in LAUNCHED for step in planned):
        launchers.get(settings.launcher)
    locations: dict[str, Location] = {}
    for step in planned:
        if step.kind == "raw":
            locations[f"sources.yaml: source '{step.name}'"] = catalog.sources[step.name]
        elif step.kind == "benchmark":
            locations[f"benchmarks.yaml: benchmark '{step.name}'"] = catalog.benchmarks[step.name]
        elif step.kind == "base":
            _check_base_access(step.name, settings)
    hub.check_access(locations, settings)


def check_transfer(recipe: Recipe, catalog: Catalog, settings: Settings) -> None:
    """Refuse a comparison of a sweep's runs with the best of more candidates than there are, before one is trained.

    A gold set that is not made yet tells nothing; what runs share is made before them.

    Raises:
        UserError: a problem of the gold set has fewer candidates than ``sweep.transfer.n``.
    """
    transfer = recipe.sweep.transfer if recipe.sweep else None
    if transfer is None or transfer.n is None:
        return
    gold = Flow(catalog).benchmark(transfer.gold).latest(ArtifactStore(settings.home))
    fewest = fewest_candidates(gold.folder) if gold else transfer.n
    if transfer.n > fewest:
        where = place_in_recipe(settings, recipe.name, ("sweep", "transfer", "n"), transfer.n)
        raise UserError(
            f"{where} is {transfer.n}, and a problem of '{transfer.gold}' has no more than {fewest} candidates; "
            f"lower it to {fewest}, or leave it out to choose among all"
        )


def _check_base_access(base: str, settings: Settings) -> None:
    from rm_workflow.models.base import check_base_access

    check_base_access(base, settings)


def check_access_of_run(context: dg.AssetExecutionContext, workplace: Workplace) -> None:
    """Check all that a recipe's run will ask the hub for; called by each asset without an upstream one.

    A headless run has done so before it began, and a run of single assets needs no more than these.

    Raises:
        UserError: see ``check_access``.
    """
    recipe = context.run.tags.get(RECIPE_TAG)
    if recipe not in workplace.catalog.recipes or PROCESS_TAG in context.run.tags:
        return
    selected = context.job_def.asset_layer.selected_asset_keys
    planned = tuple(
        step
        for step in workplace.flow.of_recipe(workplace.recipe(recipe))
        if step.kind in ROOTS and dg.AssetKey(step.asset) in selected
    )
    if _CHECKED.get("run") != context.run.run_id:
        check_access(planned, workplace.catalog, workplace.settings)
        _CHECKED["run"] = context.run.run_id
