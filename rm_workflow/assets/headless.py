"""Runs a recipe without the web UI: in this process, on the same instance, with the same assets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster import DagsterEventType

from rm_workflow.artifacts import Artifact, ArtifactStore, prepare_home
from rm_workflow.assets.access import check_access
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.instance import open_instance, process_tags, storage_told
from rm_workflow.catalog.loading import override_recipe
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

# What `--until` takes: a stage, and the kinds of assets that are made up to it.
STAGES: dict[str, tuple[str, ...]] = {
    "raw": ("raw", "benchmark"),
    "pairs": ("pairs",),
    "mixture": ("rollouts", "labels", "mixture"),
    "run_config": ("base", "tokens", "run_config"),
    "checkpoint": ("checkpoint",),
    "scores": ("overlap", "scores"),
    "card": ("card",),
}
# Kinds that can be asked for by themselves, and the stage they are made after.
BESIDE = {"overlap": "mixture", "audit": "mixture"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


# Of a catalogue, these assets alone.
BuildDefinitions = Callable[[Catalog, Sequence[Planned]], dg.Definitions]


@dataclass(frozen=True)
class RanAsset:
    """One asset of a finished run."""

    version: str
    reused: bool


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: the recipe as it was asked for, and every asset by name."""

    recipe: Recipe
    assets: Mapping[str, RanAsset]


def kinds_until(stage: str) -> tuple[str, ...]:
    """Return the kinds of assets up to and including a stage, or a kind beside the stages."""
    if stage in BESIDE:
        return (*kinds_until(BESIDE[stage]), stage)
    names = list(STAGES)
    return tuple(kind for name in names[: names.index(stage) + 1] for kind in STAGES[name])


def run_recipe(
    settings: Settings,
    catalog: Catalog,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    until: str,
    build_definitions: BuildDefinitions,
) -> FinishedRun:
    """Materialize a recipe's assets up to a stage, reusing what is there.

    Raises:
        UserError: an asset failed; the sentence is the asset's own.
    """
    prepare_home(settings.home)
    ArtifactStore(settings.home).sweep()
    changed = override_recipe(recipe, overrides, catalog)
    catalog = catalog.model_copy(update={"recipes": {**catalog.recipes, recipe.name: changed}})
    kinds = kinds_until(until)
    planned = Flow(catalog).of_kinds(changed, kinds)
    check_access(planned, catalog, settings)
    job = build_definitions(catalog, Flow(catalog).of_recipe(changed)).resolve_job_def(recipe.name)
    return FinishedRun(changed, _execute(settings, job, planned, overrides))


def run_benchmark(settings: Settings, catalog: Catalog, name: str, build_definitions: BuildDefinitions) -> Artifact:
    """Return the artifact of a benchmark, made first where it is missing or of other files.

    Raises:
        UserError: it could not be made; the sentence is the asset's own.
    """
    planned, store = Flow(catalog).benchmark(name), ArtifactStore(settings.home)
    found = planned.latest(store)
    # A hub repository is read at a recorded commit; a file of one's own may have changed, which the asset itself tells.
    if found and not catalog.benchmarks[name].path:
        return found
    prepare_home(settings.home)
    check_access([planned], catalog, settings)
    job = build_definitions(catalog, [planned]).resolve_implicit_global_asset_job_def()
    _execute(settings, job, [planned], {})
    return store.require(planned.asset, planned.requested)


def _execute(
    settings: Settings, job: dg.JobDefinition, planned: Sequence[Planned], overrides: Mapping[str, Any]
) -> dict[str, RanAsset]:
    """Materialize some assets of a job in this process and return each by name."""
    with storage_told(settings), open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(p.asset) for p in planned],
            run_config={**QUIET, "resources": {"recipe_settings": {"config": {"overrides": dict(overrides)}}}},
            tags=process_tags(),
            raise_on_error=False,
        )
    if not result.success:
        raise _failure(result)
    return _ran_assets(result)


def _ran_assets(result: dg.ExecuteInProcessResult) -> dict[str, RanAsset]:
    ran = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        metadata = {name: value.value for name, value in materialization.metadata.items()}
        ran[materialization.asset_key.path[-1]] = RanAsset(str(metadata["version"]), bool(metadata["reused"]))
    return ran


def _failure(result: dg.ExecuteInProcessResult) -> UserError:
    for event in result.all_events:
        if event.event_type != DagsterEventType.STEP_FAILURE:
            continue
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return UserError(data.user_failure_data.description)
        error = data.error
        while error and error.cause:
            error = error.cause
        if error and error.cls_name == "DagsterExecutionInterruptedError":
            return UserError(f"asset {event.step_key} was ended by a signal; run the same command again to go on")
        return UserError(f"asset {event.step_key} failed: {error.message.strip() if error else 'no reason given'}")
    return UserError("the run failed before its first step; see the web UI (rmw ui) for its log")


def stage_artifacts(planned: Sequence[Planned], store: ArtifactStore) -> dict[str, Any]:
    """Return the latest artifact of each planned asset that has one, by asset name."""
    found = {p.asset: p.latest(store) for p in planned}
    return {asset: artifact for asset, artifact in found.items() if artifact}
