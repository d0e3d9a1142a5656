"""Scheduled retraining: a schedule and a sensor for each recipe, and one sentence for each retraining that has ended.

All are off until a person switches them on, and all ask for a run only where the mixture is another one than that of
the newest checkpoint. What then becomes ``main`` is decided in the run itself, by ``<recipe>_best``.
"""

import json
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from rm_workflow import hub
from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.access import RECIPE_TAG
from rm_workflow.assets.expected import data_state
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.instance import UNFINISHED
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Location, Recipe
from rm_workflow.errors import UserError
from rm_workflow.evaluation.promotion import outcome
from rm_workflow.hub.lock import locked_files
from rm_workflow.keys import file_sha256
from rm_workflow.settings import Settings, load_settings

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

    Job = UnresolvedAssetJobDefinition | dg.JobDefinition

SCHEDULE, SENSOR = "_retraining", "_changed"
# Why a run was asked for, where the web UI shows it.
WHY_TAG = "rm_workflow/why"
BY_ITSELF = ("dagster/schedule_name", "dagster/sensor_name")
GOING_ON = [*UNFINISHED, DagsterRunStatus.QUEUED, DagsterRunStatus.CANCELING]
LOCAL_SECONDS, HUB_SECONDS = 30, 600
# A file that was written a moment ago may be half written.
SETTLED_SECONDS = 3.0


@dataclass(frozen=True)
class Look:
    """What was found when a recipe's data were looked at.

    Attributes:
        reason: why a run is asked for or not, one sentence.
        key: of the data, see ``DataState``; None where they were not looked at.
    """

    is_due: bool
    reason: str
    key: str | None = None


@dataclass
class Memory:
    """What a sensor keeps from tick to tick, as the JSON of its cursor.

    Attributes:
        files: path -> size, time of change in ns and sha256; files that have kept the first two are not hashed again.
        asked: the key of the data for which a run was asked that has not come to scores.
        number: how many runs were asked for. It makes data that change back ask again.
    """

    files: dict[str, list[Any]] = field(default_factory=dict)
    asked: str | None = None
    number: int = 0
    seen: dict[str, list[Any]] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, cursor: str | None) -> "Memory":
        """Return what a cursor says; one that a person has emptied says nothing."""
        known = json.loads(cursor) if cursor else {}
        return cls(known.get("files", {}), known.get("asked"), known.get("number", 0))

    def cursor(self) -> str:
        """Return the text to keep."""
        files = {**self.files, **self.seen}
        return json.dumps({"files": files, "asked": self.asked, "number": self.number}, sort_keys=True)

    def sha256(self, path: Path) -> str:
        """Return the sha256 of a file."""
        stat = path.stat()
        if 0 <= time.time() - stat.st_mtime < SETTLED_SECONDS:
            self.unsettled.append(path.name)
        known = self.files.get(str(path), [])
        if known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = [stat.st_size, stat.st_mtime_ns, file_sha256(path)]
        self.seen[str(path)] = known
        return str(known[2])


def without_recipe(switches: Iterable[str], recipes: Container[str]) -> list[str]:
    """Return those of some schedules and sensors whose recipe is not in the catalogue."""
    return [
        switch
        for switch in switches
        for suffix in (SCHEDULE, SENSOR)
        if switch.endswith(suffix) and switch.removesuffix(suffix) not in recipes
    ]


def retraining_schedule(catalog: Catalog, recipe: Recipe, job: "Job") -> dg.ScheduleDefinition:
    """Define the schedule of a recipe."""

    @dg.schedule(
        name=f"{recipe.name}{SCHEDULE}",
        job=job,
        cron_schedule=recipe.retraining.cron,
        execution_timezone=recipe.retraining.timezone,
        description=f"Makes {recipe.name} anew where its data have changed since its newest checkpoint.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        found = look(catalog, recipe, context.instance, Memory())
        context.log.info(found.reason)
        return dg.RunRequest(tags={WHY_TAG: found.reason}) if found.is_due else dg.SkipReason(found.reason)

    return schedule


def changed_sensor(catalog: Catalog, recipe: Recipe, job: "Job") -> dg.SensorDefinition:
    """Define the sensor of a recipe."""

    @dg.sensor(
        name=f"{recipe.name}{SENSOR}",
        job=job,
        minimum_interval_seconds=HUB_SECONDS if any(one.hub for one in _locations(catalog, recipe)) else LOCAL_SECONDS,
        description=f"Makes {recipe.name} anew as soon as its data change.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        memory = Memory.read(context.cursor)
        found = remembered(look(catalog, recipe, context.instance, memory), memory, recipe)
        context.log.info(found.reason)
        if not found.is_due:
            return dg.SensorResult(skip_reason=found.reason, cursor=memory.cursor())
        request = dg.RunRequest(run_key=f"{found.key}.{memory.number}", tags={WHY_TAG: found.reason})
        return dg.SensorResult(run_requests=[request], cursor=memory.cursor())

    return sensor


def remembered(found: Look, memory: Memory, recipe: Recipe) -> Look:
    """Return a look as a sensor acts on it: half-written files wait, and the same data are asked for once."""
    if found.key is None:
        return found
    if not found.is_due:
        memory.asked = None
        return found
    if memory.unsettled:
        return Look(False, f"{recipe.name}: {memory.unsettled[0]} was written a moment ago; the next tick looks again")
    if memory.asked == found.key:
        return Look(
            False,
            f"{recipe.name}: the run that was asked for these data has not come to scores; see its failure, then "
            "start it again, or let the schedule",
        )
    memory.asked, memory.number = found.key, memory.number + 1
    return found


def look(catalog: Catalog, recipe: Recipe, instance: dg.DagsterInstance, memory: Memory) -> Look:
    """Look at the data of a recipe, and say whether it is to be made anew; what is wrong with them is its reason."""
    try:
        settings = load_settings()
        record_dead_runs(instance, ArtifactStore(settings.home))
        unfinished = instance.get_runs(RunsFilter(tags={RECIPE_TAG: recipe.name}, statuses=GOING_ON), limit=1)
        if unfinished:
            return Look(False, f"{recipe.name}: run {unfinished[0].run_id[:8]} is not at its end yet")
        news = hub_news(catalog, recipe, settings)
        state = data_state(Flow(catalog), recipe, settings, memory.sha256)
    except UserError as error:
        return Look(False, f"{recipe.name}: {error}")
    except OSError as error:
        return Look(False, f"{recipe.name}: {error.filename} cannot be read ({error.strerror}); mend that")
    if state.is_trained_on:
        return Look(
            False, "; ".join([f"{recipe.name}: its data have not changed since its newest scores", *news]), state.key
        )
    changed = f"{', '.join(state.changed)} changed" if state.changed else "it has no scores yet"
    return Look(True, "; ".join([f"{recipe.name}: {changed}", *news]), state.key)


def hub_news(catalog: Catalog, recipe: Recipe, settings: Settings) -> list[str]:
    """Say which data sets of a recipe have moved on on the hub; take their newest commits if the recipe follows it.

    Raises:
        UserError: the file of locks is damaged.
    """
    files: dict[str, list[str]] = {}
    for location in _locations(catalog, recipe):
        if location.hub and not hub.mirror_folder(location.hub, settings):
            files.setdefault(location.hub, []).extend(hub.location_files(location))
    locked = {repository: names for repository, names in files.items() if hub.locked_commit(repository, settings)}
    return [told for repository, names in locked.items() if (told := _news_of(repository, names, recipe, settings))]


def _news_of(repository: str, files: Sequence[str], recipe: Recipe, settings: Settings) -> str | None:
    try:
        newest = hub.newer_commit(repository, settings)
        if newest is None:
            return None
        if recipe.retraining.follow_hub:
            fetched = [file for file in files if file in locked_files(settings, repository)]
            hub.follow(repository, newest, fetched or files, settings)
            return f"the newest commit {newest[:12]} of {repository} is read from now on"
    except UserError as error:
        return f"the newest commit of {repository} is not known or not taken ({error})"
    return (
        f"the hub has a newer commit {newest[:12]} of {repository}, which is not taken: rmw sources update shows it, "
        "and retraining.follow_hub takes all"
    )


def _locations(catalog: Catalog, recipe: Recipe) -> list[Location]:
    """Return where the data of a recipe's mixtures are from."""
    flow = Flow(catalog)
    steps = {p.asset: p for data in sweeps.shared_data(recipe) for p in flow.mixture(data).lineage()}
    entries: Mapping[str, Mapping[str, Location]] = {"raw": catalog.sources, "benchmark": catalog.benchmarks}
    return [entries[step.kind][step.name] for step in steps.values() if step.kind in entries]


def ended_sensors(jobs: "Sequence[Job]") -> list[dg.SensorDefinition]:
    """Define the sensors that say what became of each retraining; ``jobs`` are those that train."""

    @dg.run_status_sensor(
        run_status=DagsterRunStatus.SUCCESS,
        name="retraining_succeeded",
        monitored_jobs=list(jobs),
        description="Says of each retraining by schedule or sensor whether its checkpoint is main now, and why.",
    )
    def succeeded(context: dg.RunStatusSensorContext) -> dg.SkipReason:
        return _told(context, _outcome(context))

    @dg.run_failure_sensor(
        name="retraining_failed",
        monitored_jobs=list(jobs),
        description="Says of each retraining by schedule or sensor why it failed.",
    )
    def failed(context: dg.RunFailureSensorContext) -> dg.SkipReason:
        recipe = context.dagster_run.tags.get(RECIPE_TAG)
        return _told(context, f"{recipe}: the retraining failed, so main stays: {_failure(context)}")

    return [succeeded, failed]


def _told(context: dg.RunStatusSensorContext, sentence: str) -> dg.SkipReason:
    if not any(tag in context.dagster_run.tags for tag in BY_ITSELF):
        return dg.SkipReason(f"run {context.dagster_run.run_id[:8]} was started by a person")
    context.log.info(sentence)
    return dg.SkipReason(sentence)


def _outcome(context: dg.RunStatusSensorContext) -> str:
    run = context.dagster_run
    record = context.instance.get_run_record_by_id(run.run_id)
    started = record.start_time if record and record.start_time else 0.0
    store = ArtifactStore(load_settings().home)
    return outcome(store, run.tags.get(RECIPE_TAG, ""), datetime.fromtimestamp(started, UTC))


def _failure(context: dg.RunFailureSensorContext) -> str:
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data and data.user_failure_data.description:
            return f"{event.step_key}: {data.user_failure_data.description}"
    return context.failure_event.message or "no reason given"
