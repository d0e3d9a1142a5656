"""The Dagster code location: assembles assets, jobs and schedules from the catalogue; computes nothing."""

import dagster as dg

from rm_workflow.assets.audits import audit_asset
from rm_workflow.assets.bases import base_asset
from rm_workflow.assets.benchmarks import benchmark_asset
from rm_workflow.assets.checkpoints import checkpoint_asset, run_config_asset
from rm_workflow.assets.jobs import data_job, recipe_job, retraining_schedule
from rm_workflow.assets.mixtures import mixture_asset, tokens_asset
from rm_workflow.assets.overlaps import overlap_asset
from rm_workflow.assets.pairs import pairs_asset
from rm_workflow.assets.publishing import RecipeSettings
from rm_workflow.assets.raw import raw_asset
from rm_workflow.assets.scores import scores_asset
from rm_workflow.catalog.models import Catalog
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.settings import load_settings

RECIPE_ASSETS = (
    *(mixture_asset, overlap_asset, audit_asset),
    *(tokens_asset, run_config_asset, checkpoint_asset, scores_asset),
)


def build_definitions(catalog: Catalog) -> dg.Definitions:
    """Return the definitions of everything in a catalogue."""
    recipes = catalog.recipes.values()
    jobs = [recipe_job(catalog, recipe) for recipe in recipes]
    return dg.Definitions(
        assets=[
            *(raw_asset(catalog, name) for name in catalog.sources),
            *(pairs_asset(catalog, name) for name in catalog.pair_sets),
            *(benchmark_asset(catalog, name) for name in catalog.benchmarks),
            *(base_asset(catalog, base) for base in dict.fromkeys(recipe.base for recipe in recipes)),
            *(define(catalog, recipe.name) for recipe in recipes for define in RECIPE_ASSETS),
        ],
        jobs=[*jobs, *(data_job(catalog, recipe) for recipe in recipes)],
        schedules=[retraining_schedule(job) for job in jobs],
        resources={"recipe_settings": RecipeSettings()},
    )


defs = build_definitions(load_checked_catalog(load_settings()))
