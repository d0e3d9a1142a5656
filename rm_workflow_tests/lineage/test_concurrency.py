"""Writers, readers and people's shells on one lineage file: no row is lost and no publish fails."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.lineage import store as store_module
from rm_workflow.lineage.store import BusyError, LineageStore
from rm_workflow_tests.lineage.homes import chain, publish

NUM_WRITERS, NUM_WRITES = 6, 25
HOLD_OPEN = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read_only")
print("open", flush=True)
time.sleep(60)
"""


def write_events(home: Path) -> None:
    store = ArtifactStore(home)
    lineage = LineageStore(store)
    for _ in range(NUM_WRITES):
        store.record("failed_run", "raw_toy", {"run_id": multiprocessing.current_process().name})
        lineage.catch_up()


def read_on(home: Path, ended: Event, counts: "multiprocessing.Queue[list[int]]") -> None:
    lineage = LineageStore(ArtifactStore(home))
    found = []
    while not ended.is_set():
        found.append(lineage.query("select count(*) from run_output")[0][0])
        time.sleep(0.02)
    counts.put(found)


def test_six_processes_and_a_reader_lose_no_row(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    lineage = LineageStore(store)
    assert lineage.catch_up()
    context = multiprocessing.get_context("fork")
    ended, counts = context.Event(), context.Queue()
    reader = context.Process(target=read_on, args=(tmp_path, ended, counts))
    writers = [context.Process(target=write_events, args=(tmp_path,), name=f"w{n}") for n in range(NUM_WRITERS)]
    for process in (reader, *writers):
        process.start()
    for process in writers:
        process.join()
    ended.set()
    seen = counts.get()
    reader.join()
    assert [process.exitcode for process in (reader, *writers)] == [0] * (NUM_WRITERS + 1)
    assert seen == sorted(seen)
    lineage.catch_up()
    by_writer = lineage.query("select run_id, count(distinct sequence) from run_output group by run_id order by run_id")
    assert by_writer == [(f"w{n}", NUM_WRITES) for n in range(NUM_WRITERS)]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    store = ArtifactStore(tmp_path)
    chain(store)
    assert LineageStore(store).catch_up()
    monkeypatch.setattr(store_module, "WRITE_BUDGET_SECONDS", 0.2)
    monkeypatch.setattr(store_module, "READ_BUDGET_SECONDS", 0.2)
    return store


HOLD_TURN = """
import pathlib, sys, time
from rm_workflow.lineage.opening import turn
with turn(pathlib.Path(sys.argv[1]), sys.argv[2] == "write", 0):
    print("taken", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_open(path: Path, mode: str, how: str = HOLD_OPEN) -> Iterator[int]:
    """Hold the file open in another process and give its pid."""
    shell = subprocess.Popen([sys.executable, "-c", how, str(path), mode], stdout=subprocess.PIPE)
    try:
        assert shell.stdout is not None
        shell.stdout.readline()
        yield shell.pid
    finally:
        shell.kill()
        shell.wait()


@pytest.mark.parametrize("mode", ["read_only", "read_write"])
def test_a_persons_open_shell_delays_the_index_and_never_the_publish(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture, mode: str
):
    lineage = LineageStore(store)
    with held_open(lineage.path, mode) as pid:
        publish(store, "pairs_later", "pairs")
        assert not lineage.catch_up()
        (record,) = caplog.records
        assert f"busy for 0.2 s, held by pid {pid} ({sys.executable} -c import duckdb" in record.message
        assert record.message.endswith("what is new will be indexed later")
        assert record.levelno == logging.WARNING
    assert lineage.catch_up()
    assert lineage.query("select count(*) from dataset_version where asset = 'pairs_later'") == [(1,)]


def test_a_shell_that_is_closed_in_time_is_waited_for(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "WRITE_BUDGET_SECONDS", 20.0)
    lineage = LineageStore(store)
    publish(store, "pairs_later", "pairs")
    with held_open(lineage.path, "read_only") as pid:
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
        assert lineage.catch_up()


def test_a_question_is_answered_beside_a_readers_shell_and_not_beside_a_writers(store: ArtifactStore):
    lineage = LineageStore(store)
    with held_open(lineage.path, "read_only"):
        assert lineage.query("select count(*) from dataset_version") == [(3,)]
    with held_open(lineage.path, "read_write") as pid, pytest.raises(BusyError, match=rf"held by pid {pid} "):
        lineage.query("select count(*) from dataset_version")


def test_a_rebuild_waits_for_a_shell_and_leaves_the_file_as_it_is(store: ArtifactStore):
    lineage = LineageStore(store)
    before = lineage.path.read_bytes()
    with held_open(lineage.path, "read_only") as pid, pytest.raises(UserError, match=rf"held by pid {pid} "):
        lineage.rebuild()
    assert lineage.path.read_bytes() == before
    assert lineage.rebuild() == 3


def test_a_connection_of_the_same_process_is_told_as_such(store: ArtifactStore, caplog: pytest.LogCaptureFixture):
    lineage = LineageStore(store)
    notebook = duckdb.connect(str(lineage.path), read_only=True)
    publish(store, "pairs_later", "pairs")
    assert not lineage.catch_up()
    assert "held by this very process" in caplog.text
    notebook.close()
    assert lineage.catch_up()


def test_a_command_of_our_own_that_hangs_is_named_and_does_not_hold_up_a_publish(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture
):
    lineage = LineageStore(store)
    with held_open(lineage.path, "write", HOLD_TURN) as pid:
        publish(store, "pairs_later", "pairs")
        assert not lineage.catch_up()
        assert f"held by pid {pid} (" in caplog.text
    with held_open(lineage.path, "read", HOLD_TURN):
        assert lineage.query("select count(*) from dataset_version") == [(3,)]
