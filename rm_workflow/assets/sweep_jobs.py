"""``<recipe>_sweep``: a whole sweep by one button, schedule or sensor, as ``rmw run RECIPE --sweep`` makes it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from rm_workflow.assets.access import recipe_tags
from rm_workflow.assets.headless import BuildDefinitions, InterruptedRunError, run_sweep
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.errors import UserError
from rm_workflow.settings import load_settings

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition


def whole_job(
    catalog: Catalog, recipe: Recipe, jobs: "Sequence[UnresolvedAssetJobDefinition]", build: BuildDefinitions
) -> "UnresolvedAssetJobDefinition | dg.JobDefinition":
    """Return the job that makes all of a recipe in order: of a sweep one that does what ``rmw run --sweep`` does."""
    return sweep_job(catalog, recipe, build) if recipe.sweep else jobs[0]


def sweep_job(catalog: Catalog, recipe: Recipe, build: BuildDefinitions) -> dg.JobDefinition:
    """Define ``<recipe>_sweep``: what runs share, then each run, then their table; each is a run of its own."""

    @dg.op(name=f"{recipe.name}_all_runs", description="One run after the other; those that are done are reused.")
    def all_runs() -> None:
        try:
            finished = run_sweep(load_settings(), catalog, recipe, {}, "card", build)
        except InterruptedRunError as error:
            raise dg.DagsterExecutionInterruptedError from error
        except UserError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        if finished.failed:
            told = "; ".join(f"{key}: {sentence}" for key, sentence in finished.failed.items())
            number = len(finished.failed) + len(finished.runs)
            told = f"{len(finished.failed)} of {number} runs failed ({told}); the next run does these again"
            raise dg.Failure(description=told, allow_retries=False)

    @dg.job(
        name=f"{recipe.name}_sweep",
        executor_def=dg.in_process_executor,
        tags=recipe_tags(recipe),
        description=f"{recipe.name}: all of it in order, from raw rows to the table of runs and main.",
    )
    def job() -> None:
        all_runs()

    return job
