"""The Dagster code location: assembles assets, jobs and schedules from the catalogue; computes nothing."""

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from rm_workflow.assets.annotations import rollouts_asset, step_labels_asset
from rm_workflow.assets.audits import audit_asset
from rm_workflow.assets.bases import base_asset
from rm_workflow.assets.benchmarks import benchmark_asset
from rm_workflow.assets.best import best_asset
from rm_workflow.assets.cards import card_asset
from rm_workflow.assets.checkpoints import checkpoint_asset, run_config_asset
from rm_workflow.assets.failures import killed_steps_sensor
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.jobs import recipe_jobs
from rm_workflow.assets.mixtures import mixture_asset, tokens_asset
from rm_workflow.assets.overlaps import overlap_asset
from rm_workflow.assets.pairs import pairs_asset
from rm_workflow.assets.publishing import RecipeSettings
from rm_workflow.assets.raw import raw_asset
from rm_workflow.assets.rejection import ranked_asset, sft_dpo_asset
from rm_workflow.assets.retraining import changed_sensor, ended_sensors, retraining_schedule
from rm_workflow.assets.scores import scores_asset
from rm_workflow.assets.sweep_jobs import whole_job
from rm_workflow.assets.transfer import transfer_asset
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.settings import load_settings

ANNOTATION_ASSETS = (rollouts_asset, step_labels_asset)
DATA_ASSETS = (mixture_asset, overlap_asset, audit_asset)
REJECTION_ASSETS = (ranked_asset, sft_dpo_asset)
RUN_ASSETS = (run_config_asset, checkpoint_asset, scores_asset, card_asset)


def build_definitions(catalog: Catalog, only: Sequence[Planned] | None = None) -> dg.Definitions:
    """Return the definitions of everything in a catalogue.

    Args:
        only: the assets to define, all of a recipe or none of it; to define the rest takes longer than a small run.
    """

    def named(kind: str, known: Iterable[str]) -> list[str]:
        return list(known) if only is None else list(dict.fromkeys(one.name for one in only if one.kind == kind))

    recipes = [catalog.recipes[name] for name in named("mixture", catalog.recipes)]
    jobs = [recipe_jobs(catalog, recipe) for recipe in recipes]
    whole = [whole_job(catalog, recipe, of, build_definitions) for recipe, of in zip(recipes, jobs, strict=True)]
    return dg.Definitions(
        assets=[
            *(raw_asset(catalog, name) for name in named("raw", catalog.sources)),
            *(pairs_asset(catalog, name) for name in named("pairs", catalog.pair_sets)),
            *(benchmark_asset(catalog, name) for name in named("benchmark", catalog.benchmarks)),
            *(base_asset(catalog, base) for base in dict.fromkeys(named("base", Flow(catalog).bases()))),
            *(asset for recipe in recipes for asset in recipe_assets(catalog, recipe)),
        ],
        jobs=[
            *(job for of_recipe in jobs for job in of_recipe),
            *(job for job in whole if isinstance(job, dg.JobDefinition)),
        ],
        schedules=[retraining_schedule(catalog, *pair) for pair in zip(recipes, whole, strict=True)],
        sensors=[
            *([killed_steps_sensor()] if only is None else []),
            *(changed_sensor(catalog, *pair) for pair in zip(recipes, whole, strict=True)),
            *ended_sensors(whole),
        ],
        resources={"recipe_settings": RecipeSettings()},
    )


def recipe_assets(catalog: Catalog, recipe: Recipe) -> Iterator[dg.AssetsDefinition]:
    """Define what a recipe makes: what its runs share once each, then what each run has for itself."""
    if recipe.annotation:
        yield from (define(catalog, recipe) for define in ANNOTATION_ASSETS)
    yield from (define(catalog, data) for data in sweeps.shared_data(recipe) for define in DATA_ASSETS)
    yield from (tokens_asset(catalog, data) for data in sweeps.shared_tokens(recipe))
    yield from (define(catalog, recipe) for define in RUN_ASSETS)
    if recipe.rejection_sampling:
        yield from (define(catalog, recipe) for define in REJECTION_ASSETS)
    if recipe.promoting:
        yield best_asset(catalog, recipe)
    if recipe.sweep and recipe.sweep.transfer:
        yield transfer_asset(catalog, recipe)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector off what is made and stays: looking through it again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


with _uncollected():
    defs = build_definitions(load_checked_catalog(load_settings()))
