"""DuckDB connections for work on artifacts. The lineage file has its own owner in ``lineage``.

SQL of ours names identifiers and texts that come from data through ``quote_identifier`` and ``quote_literal`` or bound
values. Should that ever fail, a statement still reaches nothing but the homes that this process has opened and the
folder for temporary files.
"""

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from rm_workflow.errors import UserError

# Environment variable -> DuckDB's setting.
LIMITS = {"RMW_MEMORY_LIMIT": "memory_limit", "RMW_THREADS": "threads"}
EXAMPLES = {"RMW_MEMORY_LIMIT": "4GB", "RMW_THREADS": "2"}
FILE_ERROR = re.compile(r'"(?P<path>[^"]+)": (?P<reason>[^":]+)$')
# In this order: nothing can be changed after the last one.
LOCKS = (
    "set allow_community_extensions = false",
    "set autoinstall_known_extensions = false",
    "set autoload_known_extensions = false",
    "set enable_external_access = false",
    "set lock_configuration = true",
)
_homes: set[Path] = set()


def open_home(home: Path) -> None:
    """Let the connections of this process read and write below a home, wherever it lies."""
    _homes.add(home)


@contextmanager
def connect(scratch: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database for one piece of work and close it afterwards.

    ``RMW_MEMORY_LIMIT`` ("4GB") and ``RMW_THREADS`` hold for each such database; without them DuckDB takes 80 % of the
    memory and all cores. Neither changes what is written.

    Args:
        scratch: folder for spilling when the memory limit is reached.

    Raises:
        UserError: DuckDB does not understand one of the two, or the work needs more memory, even with spilling.
        OSError: a file cannot be written, for instance because spilling has filled the disk.
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
        lock_down(connection, _reachable(scratch))
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"DuckDB needs more memory than {os.environ.get('RMW_MEMORY_LIMIT') or 'this machine has'} for this step; "
            "raise the environment variable RMW_MEMORY_LIMIT, or lower RMW_THREADS, as each thread needs its own"
        ) from error
    except duckdb.IOException as error:
        raise _system_error(error) or error from error
    finally:
        connection.close()


def _system_error(error: duckdb.IOException) -> OSError | None:
    """Return the error of the system (a full disk, a quota) that DuckDB tells of a file, or None for another one."""
    told = FILE_ERROR.search(str(error))
    code = {os.strerror(code): code for code in errno.errorcode}.get(told["reason"]) if told else None
    return OSError(code, told["reason"], told["path"]) if told and code else None


def lock_down(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path]) -> None:
    """Let a connection reach files below ``folders`` alone, no network, no extension, and keep it so."""
    allowed = ", ".join(quote_literal(str(folder)) for folder in folders)
    connection.execute(f"set allowed_directories = [{allowed}]")
    for statement in LOCKS:
        connection.execute(statement)


def _reachable(scratch: Path | None) -> list[Path]:
    """Return the homes (without any the working folder), where ``scratch`` lies, and the folder for temporary files."""
    home = Path(os.environ.get("RMW_HOME") or Path.cwd())
    folders = [home, *_homes, Path(tempfile.gettempdir()), *([scratch.parent] if scratch else [])]
    return sorted({path for folder in folders for path in (folder.absolute(), folder.resolve())})


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
