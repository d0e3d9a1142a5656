"""Runs a recipe without the web UI: in this process, on the same instance, with the same assets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import dagster as dg
from dagster import DagsterEventType

from rm_workflow.artifacts import Artifact, ArtifactStore, prepare_home
from rm_workflow.assets.access import check_access, check_transfer
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.flow import Flow, Planned
from rm_workflow.assets.instance import open_instance, process_tags, storage_told
from rm_workflow.assets.jobs import BEST_KINDS, PROMOTION_JOB, RUN_KINDS
from rm_workflow.catalog import sweeps
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
    "card": ("card", "ranked", "sft_dpo", *BEST_KINDS),
}
# Kinds that can be asked for by themselves, and the stage they are made after.
BESIDE = {"overlap": "mixture", "audit": "mixture"}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


logger = logging.getLogger("rm_workflow")

# Of a catalogue, these assets alone.
BuildDefinitions = Callable[[Catalog, Sequence[Planned]], dg.Definitions]


class InterruptedRunError(UserError):
    """A person or the machine has ended the run."""

    def __init__(self, asset: str) -> None:
        super().__init__(f"asset {asset} was ended by a signal; run the same command again to go on")


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


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep that came to its end.

    Attributes:
        shared: what the runs are made from, and audits and overlaps, by name.
        runs: key -> run, with the assets that it shares with others among its own.
        failed: key -> the sentence of a run that failed; it hinders no other.
        best: what the table of runs says, or None where the sweep ended at an earlier stage.
    """

    recipe: Recipe
    shared: Mapping[str, RanAsset]
    runs: Mapping[str, FinishedRun]
    failed: Mapping[str, str]
    best: Mapping[str, Any] | None


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
    changed, catalog, definitions = _prepared(settings, catalog, recipe, overrides, build_definitions)
    planned = Flow(catalog).of_kinds(changed, kinds_until(until))
    check_access(planned, catalog, settings)
    return FinishedRun(changed, _execute(settings, definitions.resolve_job_def(recipe.name), planned, overrides))


def run_sweep(
    settings: Settings,
    catalog: Catalog,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    until: str,
    build_definitions: BuildDefinitions,
    keys: Sequence[str] | None = None,
) -> FinishedSweep:
    """Materialize runs of a sweep one after the other, what they share before them and once, and then their table.

    Args:
        keys: of the runs; None for all.

    Raises:
        UserError: there is no such run, what runs share failed, or a signal ended it; a run that fails by itself is
            told in the result.
    """
    changed, catalog, definitions = _prepared(settings, catalog, recipe, overrides, build_definitions)
    sweeps.check_overrides(changed, overrides)
    runs = {key: sweeps.run_of(changed, key) for key in keys or sweeps.runs_of(changed)}
    flow, kinds = Flow(catalog), kinds_until(until)
    planned = {key: flow.of_kinds(run, kinds) for key, run in runs.items()}
    of_none = flow.of_kinds(changed, kinds) if keys is None else []
    shared = list(
        {p.asset: p for p in (*chain(*planned.values()), *of_none) if p.kind not in (*RUN_KINDS, *BEST_KINDS)}.values()
    )
    trained = [p for p in chain(*planned.values()) if p.kind == "checkpoint"]
    check_access([*shared, *trained], catalog, settings)
    made = _execute(settings, definitions.resolve_job_def(f"{recipe.name}_data"), shared, overrides)
    check_transfer(changed, catalog, settings)
    finished, failed = {}, {}
    for number, (key, run) in enumerate(runs.items(), start=1):
        own = [p for p in planned[key] if p.kind in RUN_KINDS]
        used = {p.asset: made[p.asset] for p in planned[key] if p.asset in made}
        if not own:
            finished[key] = FinishedRun(run, used)
            continue
        if len(runs) > 1:
            logger.info("run %d of %d: %s", number, len(runs), key)
        try:
            job = definitions.resolve_job_def(recipe.name)
            finished[key] = FinishedRun(run, {**used, **_execute(settings, job, own, overrides, key)})
        except InterruptedRunError:
            raise
        except UserError as error:
            logger.warning("run %s failed: %s", key, error)
            failed[key] = str(error)
    has_scores = any(f"{recipe.name}_scores" in run.assets for run in finished.values())
    best = _best(settings, catalog, changed, overrides, definitions) if has_scores else None
    return FinishedSweep(changed, made, finished, failed, best)


def _prepared(
    settings: Settings,
    catalog: Catalog,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    build_definitions: BuildDefinitions,
) -> tuple[Recipe, Catalog, dg.Definitions]:
    """Return the recipe as this run asks for it, the catalogue with it, and the definitions of its assets."""
    prepare_home(settings.home)
    ArtifactStore(settings.home).sweep()
    changed = override_recipe(recipe, overrides, catalog)
    catalog = catalog.model_copy(update={"recipes": {**catalog.recipes, recipe.name: changed}})
    return changed, catalog, build_definitions(catalog, Flow(catalog).of_recipe(changed))


def _best(
    settings: Settings, catalog: Catalog, recipe: Recipe, overrides: Mapping[str, Any], definitions: dg.Definitions
) -> Mapping[str, Any]:
    """Make what compares runs, and return the facts of their table."""
    planned = Flow(catalog).best(recipe)
    compared = [one for one in Flow(catalog).of_recipe(recipe) if one.kind in BEST_KINDS]
    made = _execute(settings, definitions.resolve_job_def(f"{recipe.name}{PROMOTION_JOB}"), compared, overrides)
    artifact = ArtifactStore(settings.home).find(planned.asset, made[planned.asset].version)
    assert artifact is not None, "it was just made"
    return artifact.facts


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
    settings: Settings,
    job: dg.JobDefinition,
    planned: Sequence[Planned],
    overrides: Mapping[str, Any],
    partition: str | None = None,
) -> dict[str, RanAsset]:
    """Materialize some assets of a job in this process and return each by name."""
    with storage_told(settings), open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(p.asset) for p in planned],
            run_config={**QUIET, "resources": {"recipe_settings": {"config": {"overrides": dict(overrides)}}}},
            tags=process_tags(),
            partition_key=partition,
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
            return InterruptedRunError(event.step_key or "")
        return UserError(f"asset {event.step_key} failed: {error.message.strip() if error else 'no reason given'}")
    return UserError("the run failed before its first step; see the web UI (rmw ui) for its log")


def stage_artifacts(planned: Sequence[Planned], store: ArtifactStore) -> dict[str, Any]:
    """Return the latest artifact of each planned asset that has one, by asset name."""
    found = {p.asset: p.latest(store) for p in planned}
    return {asset: artifact for asset, artifact in found.items() if artifact}
