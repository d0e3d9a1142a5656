"""The project's own Dagster instance under RMW_HOME, and the end of runs whose process is gone."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import HIDDEN_TAG_PREFIX
from sqlalchemy.exc import DatabaseError

from rm_workflow.durable_files import locked, write_whole
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings

# The web UI shows no tag with this prefix.
PROCESS_TAG = f"{HIDDEN_TAG_PREFIX}rm_workflow/pid"
START_TAG = f"{HIDDEN_TAG_PREFIX}rm_workflow/process_start"
BOOT_TAG = f"{HIDDEN_TAG_PREFIX}rm_workflow/boot_id"
UNFINISHED = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
# Below this SQLite may report a full disk in many words, for instance as an I/O error.
LOW_DISK_BYTES = 10_000_000
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
PROCESSES = Path("/proc")


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Return the instance of this RMW_HOME, creating its settings file and databases the first time."""
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    # Dagster makes its tables when it opens the first time, and fails where two processes do so at once.
    with locked(home / ".lock"):
        if not (home / "dagster.yaml").exists():
            text = resources.files(__package__).joinpath("dagster.yaml").read_text("utf-8")
            write_whole(home / "dagster.yaml", text)
        return dg.DagsterInstance.get()


@contextlib.contextmanager
def storage_told(settings: Settings) -> Iterator[None]:
    """Turn a failure of Dagster's own database into one sentence."""
    try:
        yield
    except DatabaseError as error:
        free = shutil.disk_usage(settings.home).free
        if free < LOW_DISK_BYTES or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            mend = f"only {free / 1e6:.0f} MB of disk space are free there; free more or set RMW_HOME to another folder"
        else:
            mend = "run again; if it fails again, move that folder away (it holds the history of runs, no artifacts)"
        raise UserError(
            f"Dagster's database under RMW_HOME ({settings.dagster_home}) failed: {error.orig}; {mend}"
        ) from error


def process_tags() -> dict[str, str]:
    """Return tags by which a later process can tell that this one is gone."""
    pid = str(os.getpid())
    return {PROCESS_TAG: pid, START_TAG: _started(pid), BOOT_TAG: _boot_id()}


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
    # The system gives the number of a process that is gone to a new one.
    if tags.get(BOOT_TAG) != _boot_id() or tags.get(START_TAG) != _started(tags[PROCESS_TAG]):
        return False
    try:
        os.kill(int(tags[PROCESS_TAG]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: str) -> str:
    """Return when a process started, in clock ticks since the boot, or "unknown"."""
    try:
        stat = (PROCESSES / pid / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return "unknown"
    # The name, in brackets, is the second field and may hold spaces and brackets; the start is the 22nd field.
    return stat.rpartition(")")[2].split()[22 - 3]


def _boot_id() -> str:
    return BOOT_ID_FILE.read_text("utf-8").strip() if BOOT_ID_FILE.exists() else "unknown"
