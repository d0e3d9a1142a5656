"""Limits that a person sets for DuckDB's work."""

import hashlib
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from rm_workflow import database
from rm_workflow.artifacts import ArtifactStore
from rm_workflow.database import connect, write_parquet
from rm_workflow.errors import UserError


def _setting(name: str) -> str:
    with connect() as con:
        row = con.execute(f"select current_setting('{name}')").fetchone()
    assert row is not None
    return str(row[0])


def test_limits_of_the_environment_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RMW_MEMORY_LIMIT", "300MiB")
    monkeypatch.setenv("RMW_THREADS", "3")
    assert (_setting("memory_limit"), _setting("threads")) == ("300.0 MiB", "3")


@pytest.mark.parametrize(("variable", "value"), [("RMW_MEMORY_LIMIT", "4 cows"), ("RMW_THREADS", "0")])
def test_a_wrong_limit_is_one_sentence(monkeypatch: pytest.MonkeyPatch, variable: str, value: str):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"environment variable {variable} is '{value}'.* write it like"), connect():
        pass


def test_the_number_of_threads_does_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    # more than two row groups of DuckDB's 122,880 rows
    query = "select i, md5(i::varchar) as text from range(300_000) t(i) order by md5(text), i"
    digests = set()
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("RMW_THREADS", threads)
        with connect(tmp_path) as con:
            write_parquet(con, query, tmp_path / "out.parquet")
        digests.add(hashlib.sha256((tmp_path / "out.parquet").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RMW_MEMORY_LIMIT", "20MB")
    query = "select i, repeat(md5(i::varchar), 20) as text from range(200_000) t(i) order by md5(text), i"
    with pytest.raises(UserError, match=r"more memory than 20MB .* RMW_MEMORY_LIMIT"), connect(tmp_path) as con:
        write_parquet(con, query, tmp_path / "out.parquet")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home beside the folder for temporary files; what lies beside both is outside."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    monkeypatch.setenv("RMW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(database, "_homes", set())
    return tmp_path / "home"


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_text('{outside}')",
        "select * from glob('{outside}*')",
        "select * from read_text('{inside}/../outside.txt')",
        "copy (select 1) to '{outside}.copy'",
        "attach '{outside}.duckdb'",
        "attach 'https://example.org/x.duckdb'",
        "export database '{outside}.folder'",
        "select * from read_csv('https://example.org/x.csv')",
        "install httpfs",
        "load '{inside}/x.duckdb_extension'",
        "set enable_external_access = true",
        "set allowed_directories = ['/']",
        "reset lock_configuration",
        "set lock_configuration = false",
    ],
)
def test_no_statement_leaves_the_home(home: Path, statement: str):
    with connect() as con:
        con.execute(f"copy (select 1) to '{home}/inside.parquet'")
        with pytest.raises(duckdb.Error):
            con.execute(statement.format(outside=home.parent / "outside.txt", inside=home))
    assert sorted(path.name for path in home.parent.iterdir()) == ["home", "outside.txt", "temporary"]


def test_a_home_that_was_opened_is_reached_wherever_it_lies(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database, "_homes", set())
    statement = f"select content from read_text('{home.parent}/outside.txt')"
    with connect() as con, pytest.raises(duckdb.Error):
        con.execute(statement)
    ArtifactStore(home.parent)
    with connect() as con:
        assert con.execute(statement).fetchall() == [("secret",)]


def test_variables_of_python_are_not_tables():
    rows = pa.table({"secret": [1]})
    with connect() as con, pytest.raises(duckdb.Error):
        con.execute("select * from rows")
    assert rows.num_rows == 1
