"""Limits that a person sets for DuckDB's work."""

import hashlib
from pathlib import Path

import pytest

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
