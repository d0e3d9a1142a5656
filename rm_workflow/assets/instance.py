"""The project's own Dagster instance under RMW_HOME, and the end of runs whose process is gone."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from sqlalchemy.exc import OperationalError

from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

PROCESS_TAG = "rm_workflow/pid"
BOOT_TAG = "rm_workflow/boot_id"
UNFINISHED = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Return the instance of this RMW_HOME, creating its settings file the first time."""
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        text = resources.files(__package__).joinpath("dagster.yaml").read_text("utf-8")
        (home / "dagster.yaml").write_text(text, "utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
    return dg.DagsterInstance.get()


@contextlib.contextmanager
def storage_told(settings: Settings) -> Iterator[None]:
    """Turn a failure of Dagster's own database into one sentence; it is most often a full disk."""
    try:
        yield
    except OperationalError as error:
        free = shutil.disk_usage(settings.home).free / 1e6
        raise UserError(
            f"Dagster's database under RMW_HOME ({settings.dagster_home}) failed: {error.orig}; {free:.0f} MB of disk "
            "space are free there; free more or set RMW_HOME to another folder"
        ) from error


def process_tags() -> dict[str, str]:
    """Return tags by which a later process can tell that this one is gone."""
    return {PROCESS_TAG: str(os.getpid()), BOOT_TAG: _boot_id()}


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark headless runs as failed whose process no longer lives, and return their ids.

    Their places in pools are given back too: without a daemon nobody else does, and the next training would wait for
    ever.
    """
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        if PROCESS_TAG in run.tags and not _alive(run.tags):
            instance.report_run_failed(run, "The process of this run is gone; it was killed or the machine restarted.")
            ended.append(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return ended


def _alive(tags: Mapping[str, str]) -> bool:
    if tags.get(BOOT_TAG) != _boot_id():
        return False
    try:
        os.kill(int(tags[PROCESS_TAG]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    return BOOT_ID_FILE.read_text("utf-8").strip() if BOOT_ID_FILE.exists() else "unknown"
