"""Jobs and schedules: one job a recipe, one for its data alone, one schedule that retrains it weekly."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from rm_workflow.assets.access import RECIPE_TAG
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.models import Catalog, Recipe

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

WEEKLY = "0 3 * * 0"
DATA_KINDS = ("raw", "rollouts", "labels", "pairs", "benchmark", "mixture", "overlap", "audit")
# Small assets take longer to start in processes of their own than to build; the launchpad can switch.
IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}


def recipe_job(catalog: Catalog, recipe: Recipe) -> "UnresolvedAssetJobDefinition":
    """Define the job that brings a recipe from raw rows to scores and its card."""
    return _job(catalog, recipe, recipe.name, None, f"{recipe.name}: raw rows to scores and card.")


def data_job(catalog: Catalog, recipe: Recipe) -> "UnresolvedAssetJobDefinition":
    """Define the job that makes a recipe's mixture."""
    return _job(
        catalog, recipe, f"{recipe.name}_data", DATA_KINDS, f"{recipe.name}: raw rows to mixture, overlap and audit."
    )


def _job(
    catalog: Catalog, recipe: Recipe, name: str, kinds: tuple[str, ...] | None, description: str
) -> "UnresolvedAssetJobDefinition":
    planned = Flow(catalog).of_kinds(recipe, kinds)
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*(p.asset for p in planned)),
        config=IN_PROCESS,
        tags={RECIPE_TAG: recipe.name},
        description=description,
    )


def retraining_schedule(job: "UnresolvedAssetJobDefinition") -> dg.ScheduleDefinition:
    """Define a weekly retraining, stopped until a person switches it on; unchanged assets are reused."""
    return dg.ScheduleDefinition(name=f"{job.name}_weekly", job=job, cron_schedule=WEEKLY, execution_timezone="UTC")
