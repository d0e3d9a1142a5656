"""Dagster's own database under RMW_HOME: its first opening, its failures, and runs whose process is gone."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from sqlalchemy.exc import DatabaseError

from rm_workflow.assets import instance as instance_module
from rm_workflow.assets.instance import end_dead_runs, open_instance, process_tags, storage_told
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home/dagster"))
    return load_settings()


OPEN_TOGETHER = """
import sys, time
from rm_workflow.assets.instance import open_instance
from rm_workflow.settings import load_settings

print("ready", flush=True)
sys.stdin.readline()
with open_instance(load_settings()) as instance:
    assert instance.get_runs() == []
"""


def test_processes_that_open_an_empty_home_together_all_succeed(settings: Settings):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", OPEN_TOGETHER]
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(errors)


def test_settings_that_were_not_written_to_their_end_are_not_there(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_instance(settings)
    assert not (settings.dagster_home / "dagster.yaml").exists()
    with open_instance(settings) as instance:
        assert not instance.telemetry_enabled


def failure(message: str, code: int) -> DatabaseError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return DatabaseError("insert", {}, error)


def told(settings: Settings, error: DatabaseError) -> str:
    with pytest.raises(UserError) as caught, storage_told(settings):
        raise error
    return str(caught.value)


def test_only_a_full_disk_is_told_as_one(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    settings.home.mkdir()
    monkeypatch.setattr(instance_module, "LOW_DISK_BYTES", 0)
    full = told(settings, failure("database or disk is full", sqlite3.SQLITE_FULL))
    assert "MB of disk space are free there; free more or set RMW_HOME to another folder" in full
    other = told(settings, failure("table snapshots already exists", sqlite3.SQLITE_ERROR))
    assert "failed: table snapshots already exists; run again; if it fails again, move that folder away" in other
    assert "disk space" not in other
    monkeypatch.setattr(instance_module, "LOW_DISK_BYTES", 1 << 60)
    assert "disk space" in told(settings, failure("disk I/O error", sqlite3.SQLITE_IOERR))


@dg.job
def empty() -> None:
    """Stand in for a recipe's job."""


def started_run(instance: dg.DagsterInstance, changed_tags: dict[str, str]) -> str:
    tags = {**process_tags(), **changed_tags}
    return instance.create_run_for_job(empty, tags=tags, status=DagsterRunStatus.STARTED).run_id


def ended_pid() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_runs_of_processes_that_are_gone_end_and_those_of_living_ones_go_on(settings: Settings):
    with open_instance(settings) as instance:
        started_run(instance, {})
        gone = {
            started_run(instance, {instance_module.PROCESS_TAG: ended_pid()}),
            started_run(instance, {instance_module.BOOT_TAG: "another boot"}),
        }
        assert set(end_dead_runs(instance)) == gone


def test_a_run_ends_whose_process_id_went_to_another_process(settings: Settings):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with open_instance(settings) as instance:
            run_id = started_run(instance, {instance_module.PROCESS_TAG: str(process.pid)})
            assert end_dead_runs(instance) == [run_id]
    finally:
        process.kill()
        process.wait()


def test_a_process_is_known_by_its_start_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "7").mkdir()
    fields = " ".join(map(str, range(3, 53)))
    (tmp_path / "7/stat").write_text(f"7 (a) name (of 2) {fields}\n")
    monkeypatch.setattr(instance_module, "PROCESSES", tmp_path)
    assert instance_module._started("7") == "22"
    assert instance_module._started("8") == "unknown"
