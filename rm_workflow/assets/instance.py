"""The project's own Dagster instance under RMW_HOME, and the end of runs whose process is gone."""

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

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


def process_tags() -> dict[str, str]:
    """Return tags by which a later process can tell that this one is gone."""
    return {PROCESS_TAG: str(os.getpid()), BOOT_TAG: _boot_id()}


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark headless runs as failed whose process no longer lives, and return their ids."""
    ended = []
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        if PROCESS_TAG in run.tags and not _alive(run.tags):
            instance.report_run_failed(run, "The process of this run is gone; it was killed or the machine restarted.")
            ended.append(run.run_id)
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
