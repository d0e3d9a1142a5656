"""DuckDB connections for work on artifacts. The lineage file has its own owner in ``lineage``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb


@contextmanager
def connect(scratch: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database for one piece of work and close it afterwards.

    Args:
        scratch: folder for spilling when the memory limit (``RMW_MEMORY_LIMIT``, DuckDB syntax) is reached.
    """
    connection = duckdb.connect(":memory:")
    try:
        limit = os.environ.get("RMW_MEMORY_LIMIT")
        if limit:
            connection.execute(f"set memory_limit = {quote_literal(limit)}")
        if scratch:
            connection.execute(f"set temp_directory = {quote_literal(str(scratch))}")
        connection.execute("set enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def quote_identifier(name: str) -> str:
    """Return ``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return ``text`` as a quoted SQL string, for statements that take no bound values (COPY, SET)."""
    return "'" + text.replace("'", "''") + "'"


def write_parquet(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    """Write the rows of ``query``, which must state its ORDER BY, as zstd Parquet and return their number."""
    connection.execute(f"copy ({query}) to {quote_literal(str(path))} (format parquet, compression zstd)")
    row = connection.execute(f"select count(*) from read_parquet({quote_literal(str(path))})").fetchone()
    assert row is not None
    return int(row[0])
