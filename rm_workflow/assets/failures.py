"""What did not end well, as events: a step that failed, and the steps of runs whose process is gone."""

import logging
from typing import Any

import dagster as dg
from dagster._core.execution.stats import StepEventStatus

from rm_workflow.artifacts import ArtifactStore, Request
from rm_workflow.assets.instance import end_dead_runs
from rm_workflow.errors import UserError
from rm_workflow.redaction import redact

FAILED_RUN = "failed_run"
ERROR_CHARACTERS = 500
GONE = "the process of this run is gone; it was killed or the machine restarted"

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
        for step in instance.get_run_step_stats(run_id):
            if step.status in (None, StepEventStatus.IN_PROGRESS):
                _record(store, step.step_key, {"run_id": run_id, "error": GONE, "overridden": False})


def _record(store: ArtifactStore, asset: str, facts: dict[str, Any]) -> None:
    try:
        store.record(FAILED_RUN, asset, facts)
    except OSError as error:
        logger.warning("the failure of %s could not be recorded: %s", asset, error)


def _sentence(error: BaseException) -> str:
    told = redact(" ".join(str(error).split()))
    named = told if isinstance(error, UserError) else f"{type(error).__name__}: {told}".rstrip(": ")
    return named if len(named) <= ERROR_CHARACTERS else named[: ERROR_CHARACTERS - 3] + "..."
