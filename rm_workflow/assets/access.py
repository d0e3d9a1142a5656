"""Whether hub and launcher would give what a run needs, asked in its first seconds and not after hours of work."""

from collections.abc import Sequence

import dagster as dg

from rm_workflow import hub
from rm_workflow.assets.flow import Planned
from rm_workflow.assets.instance import PROCESS_TAG
from rm_workflow.assets.publishing import Workplace
from rm_workflow.catalog.models import Catalog, Location, Recipe
from rm_workflow.keys import content_id
from rm_workflow.settings import Settings
from rm_workflow.training import launchers

RECIPE_TAG = "rm_workflow/recipe"
RECIPE_VERSION_TAG = "rm_workflow/recipe_version"
VERSION_DIGITS = 12
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
    if any(step.kind == "checkpoint" for step in planned):
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
