"""A lineage file that is missing, cut, overwritten or of another schema is made anew, and nothing is lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.artifacts import ArtifactStore, Built, Check, Request
from rm_workflow.errors import UserError
from rm_workflow.lineage import store as store_module
from rm_workflow.lineage.store import LineageStore
from rm_workflow_tests.lineage.homes import chain, contents

PAGE = 4096
# Commits, and ends before the file is checkpointed: what is new stands in the write-ahead log alone.
KILLED_AFTER_COMMIT = """
import os, pathlib, sys
from rm_workflow.artifacts import ArtifactStore
from rm_workflow.lineage.opening import opened
from rm_workflow.lineage.store import LineageStore

lineage = LineageStore(ArtifactStore(pathlib.Path(sys.argv[1])))
with opened(lineage.path, read_only=False, budget_seconds=0) as connection:
    lineage._index_new(connection)
    os._exit(9)
"""


@pytest.fixture
def lineage(tmp_path: Path) -> LineageStore:
    store = ArtifactStore(tmp_path / "home")
    chain(store)
    lineage = LineageStore(store)
    assert lineage.catch_up()
    return lineage


def wal(lineage: LineageStore) -> Path:
    return lineage.path.with_name(lineage.path.name + ".wal")


def test_a_log_cut_at_each_page_loses_nothing(lineage: LineageStore, tmp_path: Path):
    for number in range(40):
        lineage.store.record("failed_run", "raw_toy", {"run_id": "run-2", "error": f"{number} " * 400})
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_COMMIT, str(lineage.store.home)], check=False)
    assert killed.returncode == 9
    saved = {path: path.read_bytes() for path in (lineage.path, wal(lineage))}
    assert lineage.rebuild() == 43
    whole = contents(lineage)
    size = len(saved[wal(lineage)])
    assert size > 4 * PAGE
    for cut in (*range(0, size, PAGE), size - 1):
        lineage.path.write_bytes(saved[lineage.path])
        wal(lineage).write_bytes(saved[wal(lineage)][:cut])
        assert lineage.catch_up(), cut
        assert contents(lineage) == whole, cut


@pytest.mark.parametrize("kept", [0, 100, PAGE, 3 * PAGE])
def test_a_cut_file_is_made_anew_and_said_so(lineage: LineageStore, caplog: pytest.LogCaptureFixture, kept: int):
    whole = contents(lineage)
    lineage.path.write_bytes(lineage.path.read_bytes()[:kept])
    assert lineage.catch_up()
    assert contents(lineage) == whole
    assert [record.message.split(" (")[0] for record in caplog.records] == ["lineage.duckdb was damaged"]


def test_damaged_pages_are_found_by_the_question_that_reads_them(lineage: LineageStore):
    whole, content = contents(lineage), bytearray(lineage.path.read_bytes())
    for start in range(3 * PAGE, len(content), PAGE):
        content[start : start + 64] = bytes(byte ^ 0xFF for byte in content[start : start + 64])
    lineage.path.write_bytes(content)
    assert lineage.query("from dataset_version order by all") == whole["dataset_version"]
    assert contents(lineage) == whole


def test_a_missing_file_is_made_again(lineage: LineageStore):
    whole = contents(lineage)
    lineage.path.unlink()
    assert lineage.catch_up()
    assert contents(lineage) == whole


def test_a_file_of_an_older_schema_is_made_anew(lineage: LineageStore, caplog: pytest.LogCaptureFixture):
    whole = contents(lineage)
    lineage.path.unlink()
    with duckdb.connect(str(lineage.path)) as old:
        old.execute("create table indexed_event (sequence bigint)")
        old.execute("insert into indexed_event values (1), (2), (3)")
    assert lineage.catch_up()
    assert "lineage.duckdb had an older schema and was made anew from 3 events" in caplog.text
    assert contents(lineage) == whole


def test_a_log_of_another_file_is_not_taken_over(lineage: LineageStore, tmp_path: Path):
    whole = contents(lineage)
    other = LineageStore(ArtifactStore(tmp_path / "other"))
    chain(other.store)
    subprocess.run([sys.executable, "-c", KILLED_AFTER_COMMIT, str(other.store.home)], check=False)
    shutil.copy(wal(other), wal(lineage))
    assert lineage.catch_up()
    assert contents(lineage) == whole


def test_a_rebuild_that_fails_leaves_the_old_file(lineage: LineageStore, monkeypatch: pytest.MonkeyPatch):
    def fill(*arguments: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    whole, before = contents(lineage), lineage.path.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(store_module, "insert", fill)
        with pytest.raises(store_module.UnwritableError, match="No space left on device"):
            lineage.rebuild()
    assert lineage.path.read_bytes() == before
    assert contents(lineage) == whole
    assert [path.name for path in lineage.path.parent.glob(".lineage*")] == []


def test_what_a_killed_rebuild_has_left_is_removed(lineage: LineageStore):
    left = [lineage.path.with_name(f".lineage.new.duckdb{end}") for end in ("", ".wal")]
    for path in left:
        path.write_text("half")
    assert lineage.rebuild() == 3
    assert not any(path.exists() for path in left)


def test_what_was_removed_and_made_again_is_told_alike_by_a_rebuild(lineage: LineageStore):
    store = lineage.store
    tables = {"pairs.parquet": pa.table({"pair_id": ["a"], "source": ["toy"], "split": ["train"]})}
    request = Request("gone_mixture", "mixture", "1", {})

    def build(out: Path) -> Built:
        for name, table in tables.items():
            pq.write_table(table, out / name)
        return Built({"kept": 1}, (Check("law", True, "Nothing vanishes."),))

    def assert_rebuilt_equal() -> None:
        assert lineage.catch_up()
        whole = contents(lineage)
        lineage.rebuild()
        assert contents(lineage) == whole

    first = store.materialize(request, build, "run-1").artifact
    assert_rebuilt_equal()
    store.remove(first, "not wanted")
    assert_rebuilt_equal()
    assert lineage.query("select num_rows from row_count where asset = 'gone_mixture'") == [(1,)]
    assert lineage.query("select num_rows from source_count where asset = 'gone_mixture'") == []
    store.materialize(request, build, "run-2")
    assert_rebuilt_equal()
    assert lineage.query("select num_rows from source_count where asset = 'gone_mixture'") == [(1,)]
    second = store.find(first.asset, first.version)
    assert second is not None
    store.remove(second, "not wanted")
    store.materialize(request, build, "run-3")
    assert_rebuilt_equal()
    assert lineage.query("select num_rows from source_count where asset = 'gone_mixture'") == [(1,)]
    events = "select event, run_id from run_output where asset = 'gone_mixture' order by sequence"
    runs = ["run-1", "run-2", "run-3"]
    assert lineage.query(events) == [*(e for run in runs for e in (("publish", run), ("removal", None)))][:-1]
    assert lineage.query("select run_id from dataset_version where asset = 'gone_mixture'") == [("run-1",)]


@pytest.mark.parametrize("name", ["pairs.parquet", "dropped.parquet"])
def test_an_artifact_that_was_damaged_is_left_out_named_and_hinders_no_other(
    lineage: LineageStore, caplog: pytest.LogCaptureFixture, name: str
):
    store = lineage.store

    def build(out: Path) -> Built:
        for file in ("pairs.parquet", "dropped.parquet"):
            pq.write_table(pa.table({"source": ["hh"], "rule": ["cap"]}), out / file)
        return Built({})

    damaged = store.materialize(Request("pairs_b", "pairs", "1", {}), build, "run-2").artifact
    whole = store.materialize(Request("pairs_c", "pairs", "1", {}), build, "run-3").artifact
    path = damaged.folder / name
    path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR2"))
    assert not lineage.catch_up()
    assert f"artifact {damaged.id}: file {name} is not what was published" in caplog.text
    rows = lineage.query("select asset from dataset_version where asset in ('pairs_b', 'pairs_c')")
    assert rows == [(whole.asset,)]


def test_figures_of_steps_that_were_damaged_stop_no_asset(lineage: LineageStore, caplog: pytest.LogCaptureFixture):
    def build(out: Path) -> Built:
        (out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
        return Built(dict.fromkeys(("base", "objective", "num_train_pairs", "num_steps", "seconds"), 1))

    request = Request("toy_checkpoint", "checkpoint", "1", {})
    checkpoint = lineage.store.materialize(request, build, "run-2").artifact
    (checkpoint.folder / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.\xff}\n')
    assert not lineage.catch_up()
    assert f"artifact {checkpoint.id}: file metrics.jsonl is not what was published" in caplog.text
    with pytest.raises(UserError, match=f"artifact {checkpoint.id}: file metrics"):
        lineage.rebuild()


def test_a_folder_in_the_place_of_the_file_is_one_sentence(lineage: LineageStore, caplog: pytest.LogCaptureFixture):
    lineage.path.unlink()
    lineage.path.mkdir()
    assert not lineage.catch_up()
    assert f"cannot write {lineage.path}" in caplog.text
    with pytest.raises(UserError, match=r"cannot write .*; make it writable"):
        lineage.rebuild()


def test_a_question_that_needs_too_much_memory_is_no_damage(lineage: LineageStore, monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise duckdb.OutOfMemoryException("failed to allocate")

    before = lineage.path.stat().st_ino
    monkeypatch.setattr(LineageStore, "_fetch", fail)
    with pytest.raises(duckdb.OutOfMemoryException):
        lineage.query("from run")
    assert lineage.path.stat().st_ino == before
