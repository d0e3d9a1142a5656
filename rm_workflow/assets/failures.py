"""What did not end well, as events: a step that failed, one that was killed, and the steps of runs that are gone.

A step that fails writes its event itself. One that was killed cannot: Dagster notes it in its own event log, from which
the sensor takes it while the daemon lives, or the next command does where a whole run went with its step.
"""

import logging
from typing import Any

import dagster as dg
from dagster._core.execution.stats import StepEventStatus

from rm_workflow.artifacts import ArtifactStore, Request
from rm_workflow.assets.instance import end_dead_runs
from rm_workflow.errors import UserError
from rm_workflow.redaction import redact
from rm_workflow.settings import load_settings

FAILED_RUN = "failed_run"
ERROR_CHARACTERS = 500
GONE = "the process of this run is gone; it was killed or the machine restarted"
NOT_ENDED_WELL = (None, StepEventStatus.IN_PROGRESS, StepEventStatus.FAILURE)

logger = logging.getLogger("rm_workflow")


def record_failure(
    store: ArtifactStore, asset: str, run_id: str, error: BaseException, request: Request | None = None
) -> None:
    """Write the event of a step that failed; a disk that takes no event does not hide the error itself.

    Args:
        request: what the step was to make, where it came to know.
    """
    facts: dict[str, Any] = {"run_id": run_id, "error": _sentence(error), "overridden": False}
    if request:
        facts |= {
            "version": request.version,
            "partition": request.partition,
            "requested": request.requested,
            "overridden": request.overridden,
            "inputs": [{"asset": one.asset, "version": one.version, "kind": one.kind} for one in request.inputs],
        }
    _record(store, asset, facts)


def record_dead_runs(instance: dg.DagsterInstance, store: ArtifactStore) -> None:
    """End the runs whose process is gone, and write an event for each of their steps that was under way."""
    for run_id in end_dead_runs(instance):
        record_killed_steps(instance, store, run_id)


def record_killed_steps(instance: dg.DagsterInstance, store: ArtifactStore, run_id: str) -> None:
    """Write an event for each step of a failed run that did not end well and wrote none."""
    told = {event["asset"] for event in store.events(kinds=(FAILED_RUN,)) if event["run_id"] == run_id}
    failed = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    reasons = {entry.step_key: _reason(entry) for entry in failed}
    for step in instance.get_run_step_stats(run_id):
        if step.status in NOT_ENDED_WELL and step.step_key not in told:
            reason = reasons.get(step.step_key, GONE)
            _record(store, step.step_key, {"run_id": run_id, "error": reason, "overridden": False})


def killed_steps_sensor() -> dg.SensorDefinition:
    """Define the sensor that records the steps of failed runs which were killed."""

    @dg.run_failure_sensor(
        name="killed_steps",
        description="Records steps that were killed, as by the system when memory runs out, in the lineage.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def killed_steps(context: dg.RunFailureSensorContext) -> None:
        record_killed_steps(context.instance, ArtifactStore(load_settings().home), context.dagster_run.run_id)

    return killed_steps


def _reason(entry: dg.EventLogEntry) -> str:
    failure = entry.get_dagster_event().step_failure_data.error
    return _shortened(redact(" ".join(failure.message.split()))) if failure else GONE


def _record(store: ArtifactStore, asset: str, facts: dict[str, Any]) -> None:
    try:
        store.record(FAILED_RUN, asset, facts)
    except OSError as error:
        logger.warning("the failure of %s could not be recorded: %s", asset, error)


def _sentence(error: BaseException) -> str:
    told = redact(" ".join(str(error).split()))
    named = told if isinstance(error, UserError) else f"{type(error).__name__}: {told}".rstrip(": ")
    return _shortened(named)


def _shortened(text: str) -> str:
    return text if len(text) <= ERROR_CHARACTERS else text[: ERROR_CHARACTERS - 3] + "..."
