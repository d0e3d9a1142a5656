"""Opens the lineage file among many processes: waits with jitter within a stated budget, and names who holds it.

DuckDB lets one process write or many read. Processes of this project take turns by a lock file, which costs little to
ask for; a person's shell is kept apart by DuckDB's own lock.
"""

import contextlib
import fcntl
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import duckdb

from rm_workflow.database import lock_down
from rm_workflow.errors import UserError
from rm_workflow.redaction import redact

LOCK_MESSAGE = "Could not set lock"
# The same process has the file open in another way, for instance a notebook.
OWN_LOCK_MESSAGE = "different configuration"
PAUSE_SECONDS = (0.002, 0.03)
COMMAND_CHARACTERS = 80
PROCESSES = Path("/proc")


class UnwritableError(UserError):
    """The lineage file cannot be made or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot write {path} ({reason}); make it writable, free space there or set RMW_HOME to another folder"
        )


class BusyError(UserError):
    """Another process holds the lineage file."""

    def __init__(self, path: Path, budget_seconds: float, holder: str) -> None:
        super().__init__(f"{path.name} was busy for {budget_seconds:g} s, held by {holder}: close that program")


@contextlib.contextmanager
def opened(path: Path, read_only: bool, budget_seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the file for one piece of work and close it afterwards.

    Raises:
        BusyError: it could not be had within the budget.
        UnwritableError: it cannot be made or written.
        duckdb.Error: it is damaged.
    """
    if not read_only or not path.exists():
        require_writable(path)
    deadline = time.monotonic() + budget_seconds
    with turn(path, not read_only, budget_seconds):
        connection = _connect(path, read_only, deadline, budget_seconds)
        try:
            yield connection
        finally:
            connection.close()


def _connect(path: Path, read_only: bool, deadline: float, budget_seconds: float) -> duckdb.DuckDBPyConnection:
    while True:
        try:
            connection = duckdb.connect(str(path), read_only=read_only)
            lock_down(connection, [path.parent])
            return connection
        except (duckdb.IOException, duckdb.ConnectionException) as error:
            if not any(message in str(error) for message in (LOCK_MESSAGE, OWN_LOCK_MESSAGE)):
                if not path.exists():
                    raise UnwritableError(path, first_line(error)) from error
                raise
            if time.monotonic() > deadline:
                raise BusyError(path, budget_seconds, _holder(str(error))) from error
            _pause()


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be made or written.

    Raises:
        UnwritableError: its folder is not there, it is a folder itself, or one of both is read-only.
    """
    if not path.parent.is_dir():
        raise UnwritableError(path, "its folder does not exist")
    if path.is_dir():
        raise UnwritableError(path, "it is a folder")
    if not all(os.access(asked, os.W_OK) for asked in (path.parent, path) if asked.exists()):
        raise UnwritableError(path, "it is read-only")


@contextlib.contextmanager
def turn(path: Path, exclusive: bool, budget_seconds: float) -> Iterator[None]:
    """Take this project's lock on the file: readers together, a writer alone; a read-only home has no writers.

    Raises:
        BusyError: another process of this project has it for longer than the budget.
    """
    lock = path.with_suffix(".lock")
    try:
        file = lock.open("ab")
    except OSError:
        yield
        return
    with file:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        if not _taken(fcntl.flock, file, kind, budget_seconds):
            raise BusyError(path, budget_seconds, _lock_holder(lock))
        yield


@contextlib.contextmanager
def strangers_kept_out(path: Path, budget_seconds: float) -> Iterator[None]:
    """Hold the lock that DuckDB takes on a file, without opening it as a database, which it may be no longer.

    Raises:
        BusyError: another process has the file open.
    """
    if not path.exists():
        yield
        return
    with path.open("rb+") as file:
        if not _taken(fcntl.lockf, file, fcntl.LOCK_EX, budget_seconds):
            raise BusyError(path, budget_seconds, _told_by_duckdb(path))
        yield


def _taken(lock: Callable[[BinaryIO, int], None], file: BinaryIO, kind: int, budget_seconds: float) -> bool:
    deadline = time.monotonic() + budget_seconds
    while True:
        try:
            lock(file, kind | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            _pause()


def _pause() -> None:
    time.sleep(random.uniform(*PAUSE_SECONDS))


def _told_by_duckdb(path: Path) -> str:
    try:
        duckdb.connect(str(path)).close()
    except duckdb.Error as error:
        return _holder(str(error))
    return "a process that has just ended"


def _holder(message: str) -> str:
    """Return who holds the file, by DuckDB's message."""
    if OWN_LOCK_MESSAGE in message:
        return "this very process"
    found = re.search(r"held in (.*) \(PID (\d+)\)", message)
    return _process(found[2], found[1]) if found else first_line(duckdb.Error(message))


def _lock_holder(lock: Path) -> str:
    """Return who holds the lock file, by the system's list of locks: one that has it, and not those that wait."""
    inode = str(lock.stat().st_ino)
    listed = PROCESSES / "locks"
    lines = listed.read_text("utf-8").splitlines() if listed.is_file() else []
    pids = [fields[4] for fields in map(str.split, lines) if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}")]
    return _process(pids[0], "another rmw") if pids else "another rmw"


def _process(pid: str, otherwise: str) -> str:
    """Return pid and command of a process, the latter cut."""
    try:
        words = (PROCESSES / pid / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        words = []
    command = redact(" ".join(" ".join(words).split())) or otherwise
    cut = command if len(command) <= COMMAND_CHARACTERS else command[: COMMAND_CHARACTERS - 3] + "..."
    return f"pid {pid} ({cut})"


def first_line(error: Exception) -> str:
    """Return the first line of an error of DuckDB, whose further lines show the statement."""
    return str(error).strip().splitlines()[0]
