"""Jobs: one a recipe, and one for its data alone.

Dagster repeats what has no partition for every key of a job that has both, so a sweep's assets stand in three jobs:
what runs share (``<recipe>_data``), what each run has for itself (``<recipe>``), and what compares runs
(``<recipe>_promotion``); all three in order: ``sweep_jobs.py``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from rm_workflow.assets.access import recipe_tags
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.pages import addresses

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DATA_KINDS = ("raw", "rollouts", "labels", "pairs", "benchmark", "mixture", "overlap", "audit")
# What a run of a sweep has for itself.
RUN_KINDS = ("run_config", "checkpoint", "scores", "card", "ranked", "sft_dpo")
# What compares runs.
BEST_KINDS = ("best", "transfer")
# A job may not be called as an asset, so not ``_best``.
PROMOTION_JOB = "_promotion"
# Small assets take longer to start in processes of their own than to build; the launchpad can switch.
IN_PROCESS: dict[str, Any] = {"execution": {"config": {"in_process": {}}}}
# Empty, and in sight: the launchpad opens with it, so that a person sees where to change a setting.
UNCHANGED: dict[str, Any] = {"resources": {"recipe_settings": {"config": {"overrides": {}}}}}


def recipe_jobs(catalog: Catalog, recipe: Recipe) -> "list[UnresolvedAssetJobDefinition]":
    """Define the jobs of a recipe, the one with its name first."""
    planned, name = Flow(catalog).of_recipe(recipe), recipe.name
    if recipe.sweep is None:
        data = Flow(catalog).of_kinds(recipe, DATA_KINDS)
        return [
            _job(recipe, name, planned, f"{name}: raw rows to scores and card."),
            _job(recipe, f"{name}_data", data, f"{name}: raw rows to mixture, overlap and audit."),
        ]
    of_runs = [p for p in planned if p.kind in RUN_KINDS]
    shared = [p for p in planned if p.kind not in (*RUN_KINDS, *BEST_KINDS)]
    best = [p for p in planned if p.kind in BEST_KINDS]
    return [
        _job(recipe, name, of_runs, f"{name}: one run of the sweep, from the shared tokens to scores and card."),
        _job(recipe, f"{name}_data", shared, f"{name}: what the runs share: mixtures, tokens, benchmarks."),
        _job(recipe, f"{name}{PROMOTION_JOB}", best, f"{name}: the table of runs, and which one is main."),
    ]


def _job(recipe: Recipe, name: str, planned: Sequence[Planned], description: str) -> "UnresolvedAssetJobDefinition":
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*dict.fromkeys(p.asset for p in planned)),
        config={**IN_PROCESS, **UNCHANGED},
        tags=recipe_tags(recipe),
        description=f"{description} [Its data, runs and scores]({addresses.recipe(recipe.name)})",
    )
