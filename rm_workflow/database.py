"""DuckDB connections for work on artifacts. The lineage file has its own owner in ``lineage``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from rm_workflow.errors import UserError

# Environment variable -> DuckDB's setting.
LIMITS = {"RMW_MEMORY_LIMIT": "memory_limit", "RMW_THREADS": "threads"}
EXAMPLES = {"RMW_MEMORY_LIMIT": "4GB", "RMW_THREADS": "2"}


@contextmanager
def connect(scratch: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database for one piece of work and close it afterwards.

    ``RMW_MEMORY_LIMIT`` ("4GB") and ``RMW_THREADS`` hold for each such database; without them DuckDB takes 80 % of the
    memory and all cores. Neither changes what is written.

    Args:
        scratch: folder for spilling when the memory limit is reached.

    Raises:
        UserError: DuckDB does not understand one of the two, or the work needs more memory, even with spilling.
    """
    connection = duckdb.connect(":memory:")
    try:
        for variable, setting in LIMITS.items():
            _limit(connection, variable, setting)
        if scratch:
            connection.execute(f"set temp_directory = {quote_literal(str(scratch))}")
        connection.execute("set enable_progress_bar = false")
        # What DuckDB knows of its inputs would show in the files that it writes: a column without nulls in one file is
        # written in another way than the same column in two files.
        connection.execute("set disabled_optimizers = 'statistics_propagation'")
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"DuckDB needs more memory than {os.environ.get('RMW_MEMORY_LIMIT') or 'this machine has'} for this step; "
            "raise the environment variable RMW_MEMORY_LIMIT, or lower RMW_THREADS, as each thread needs its own"
        ) from error
    finally:
        connection.close()


def _limit(connection: duckdb.DuckDBPyConnection, variable: str, setting: str) -> None:
    value = os.environ.get(variable)
    if not value:
        return
    try:
        connection.execute(f"set {setting} = {quote_literal(value)}")
    except duckdb.Error as error:
        raise UserError(
            f"environment variable {variable} is {value!r}, which DuckDB does not take for {setting}; write it like "
            f"{EXAMPLES[variable]}"
        ) from error


def num_threads() -> int:
    """Return how many threads or processes work may take: ``RMW_THREADS``, or the cores of this process."""
    with connect() as connection:
        row = connection.execute("select current_setting('threads')").fetchone()
    assert row is not None
    return int(row[0])


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
