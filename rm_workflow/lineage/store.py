"""The one owner of the lineage file: open, one transaction, close; never held across work.

``lineage.duckdb`` is an index over manifests and events. It can be deleted at any time; the next catch-up makes it
again, and so it does with a file that is damaged or has an older schema. A publish whose record finds the file busy
leaves it to the next catch-up.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.lineage.indexing import OF_FILES, event_rows, file_rows, files_read, insert, version_rows
from rm_workflow.lineage.opening import (
    BusyError,
    UnwritableError,
    first_line,
    opened,
    require_writable,
    strangers_kept_out,
    turn,
)

# A person's open shell costs each asset so much.
WRITE_BUDGET_SECONDS = 3.0
READ_BUDGET_SECONDS = 30.0
# Events that say that an artifact is there.
PUBLISHING = ("publish", "reuse")
REMOVAL = "removal"
Key = tuple[Any, Any]

# Faults of a question, or of the machine that answers it, not of the file.
NO_DAMAGE = (duckdb.BinderException, duckdb.ParserException, duckdb.OutOfMemoryException, duckdb.InterruptException)

logger = logging.getLogger(__name__)


@cache
def sql(name: str) -> str:
    """Return the text of one of this package's SQL files."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def schema_id() -> str:
    """Return what tells this schema from an older one."""
    return content_id(sql("schema.sql"))


class LineageStore:
    """Reader and writer of the lineage tables of one RMW_HOME."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.path = store.home / "lineage.duckdb"

    def catch_up(self) -> bool:
        """Index every event that is not indexed yet, in one transaction; files of indexed events are not opened.

        A file that is damaged or has an older schema is made anew.

        Returns:
            False when something is left for the next call: the file is busy or cannot be written, or an event or
            artifact is damaged; the log says which.
        """
        # The index is never worth a failed asset: the truth lies in manifests and events.
        try:
            problems = self._caught_up()
        except BusyError as error:
            logger.warning("%s; what is new will be indexed later", error)
            return False
        except OSError as error:
            problems = [UnwritableError(self.path, error.strerror or str(error))]
        except UserError as error:
            problems = [error]
        _report(problems)
        return not problems

    def _caught_up(self) -> list[UserError]:
        try:
            with opened(self.path, read_only=False, budget_seconds=WRITE_BUDGET_SECONDS) as connection:
                return self._index_new(connection)[1]
        except duckdb.Error as damage:
            return self._made_anew(damage)

    def _made_anew(self, damage: duckdb.Error) -> list[UserError]:
        """Rebuild a file that cannot be used and return what had to be left."""
        num_events, problems = self._rebuilt()
        reason = "had an older schema" if isinstance(damage, OldSchemaError) else f"was damaged ({first_line(damage)})"
        logger.warning("%s %s and was made anew from %d events", self.path.name, reason, num_events)
        return problems

    def rebuild(self) -> int:
        """Recreate the index from manifests and events alone and return the number of events.

        The new file takes the place of the old one when it is whole. The old one is not opened, however damaged it is.

        Raises:
            UserError: the file is busy or cannot be written, or an event or artifact is damaged: all others are indexed
                then.
        """
        num_events, problems = self._rebuilt()
        if problems:
            raise problems[0]
        return num_events

    def _rebuilt(self) -> tuple[int, list[UserError]]:
        require_writable(self.path)
        fresh = self.path.with_name(f".{self.path.stem}.new.duckdb")
        budget = WRITE_BUDGET_SECONDS
        with turn(self.path, True, budget), strangers_kept_out(self.path, budget):
            _remove(fresh)
            try:
                # By itself, as the turn is taken already.
                with duckdb.connect(str(fresh)) as connection:
                    found = self._index_new(connection)
            except duckdb.Error as error:
                _remove(fresh)
                raise UnwritableError(self.path, first_line(error)) from error
            _wal(self.path).unlink(missing_ok=True)
            fresh.replace(self.path)
        return found

    def query(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one read-only query and return its rows; a file that turns out to be damaged is made anew first.

        Raises:
            UserError: the file is busy, is not there and cannot be made, or is damaged and cannot be made anew.
        """
        return self._query(statement, dict(parameters or {}))[1]

    def rows(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Run one read-only query and return its rows by column name; see ``query``."""
        names, rows = self._query(statement, dict(parameters or {}))
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _query(self, statement: str, parameters: dict[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
        try:
            return self._fetch(statement, parameters)
        except NO_DAMAGE:
            raise
        except duckdb.Error as damage:
            try:
                _report(self._made_anew(damage))
            except UserError as error:
                raise DamagedError(self.path, damage) from error
        return self._fetch(statement, parameters)

    def _fetch(self, statement: str, parameters: dict[str, Any]) -> tuple[list[str], list[tuple[Any, ...]]]:
        with opened(self.path, read_only=True, budget_seconds=READ_BUDGET_SECONDS) as connection:
            found = connection.execute(statement, parameters)
            return [column[0] for column in found.description or ()], found.fetchall()

    def _index_new(self, connection: duckdb.DuckDBPyConnection) -> tuple[int, list[UserError]]:
        """Index what is not indexed yet; return how many events, and what is wrong with those that had to be left."""
        is_new = not _has_schema(connection)
        connection.begin()
        if is_new:
            connection.execute(sql("schema.sql"))
            insert(connection, "indexed_with", [[schema_id()]])
        progress = _Progress.read(connection, self.store)
        num_new, problems = 0, []
        try:
            # By sequence and not from the highest one on: an event may appear below it, for instance from a backup.
            for event in self.store.events(skip=progress.indexed):
                try:
                    self._index(connection, event, progress)
                    num_new += 1
                except UserError as damaged_artifact:
                    problems.append(damaged_artifact)
        except UserError as damaged_event:
            problems.append(damaged_event)
        connection.commit()
        return num_new, problems

    def _index(self, connection: duckdb.DuckDBPyConnection, event: Mapping[str, Any], progress: "_Progress") -> None:
        key = (event["asset"], event.get("version"))
        known = found = None
        # A version that failed may be there by now; it is the event of its publishing that brings it in.
        if event["kind"] in PUBLISHING:
            known = progress.removed_after(event)
            if known is None:
                known = found = self.store.find(event["asset"], event["version"])
        # All rows are gathered before the first is inserted, so that an event is indexed whole or not at all.
        rows = list(event_rows(event, known))
        if known and key not in progress.versions:
            rows += version_rows(event, known)
        if found and key not in progress.with_files:
            self.store.prove(found, files_read(found))
            rows += file_rows(found)
            progress.with_files.add(key)
        if known:
            progress.versions.add(key)
        if event["kind"] == REMOVAL:
            progress.with_files.discard(key)
            for table in OF_FILES:
                connection.execute(f"delete from {table} where asset = ? and version = ?", list(key))
        for table, values in rows:
            insert(connection, table, values)


@dataclass(frozen=True)
class _Progress:
    """What is indexed already.

    Attributes:
        indexed: sequence numbers of events.
        versions: asset and version of those whose manifest is indexed.
        with_files: of these, those whose files are too, as they are not removed.
        removed: sequence number of a removal -> what was removed, by the manifest that its event has taken over.
    """

    indexed: set[int]
    versions: set[Key]
    with_files: set[Key]
    removed: dict[int, Artifact]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection, store: ArtifactStore) -> "_Progress":
        """Read the index; events of removals are opened only where one is new."""
        indexed = {row[0] for row in connection.execute("select sequence from indexed_event").fetchall()}
        versions = set(connection.execute("select asset, version from dataset_version").fetchall())
        gone = set(connection.execute(sql("queries/removed.sql")).fetchall())
        removed = {
            event["sequence"]: Artifact(event["asset"], event["version"], store.artifacts, event["manifest"])
            for event in store.events(kinds=(REMOVAL,), skip=indexed)
        }
        return cls(indexed, versions, versions - gone, removed)

    def removed_after(self, event: Mapping[str, Any]) -> Artifact | None:
        """Return what an event has published as it was when it was removed, or None where it is still there.

        The same version may have been published again since.
        """
        key = (event["asset"], event["version"])
        return next(
            (
                artifact
                for sequence, artifact in sorted(self.removed.items(), key=lambda removal: removal[0])
                if sequence > event["sequence"] and (artifact.asset, artifact.version) == key
            ),
            None,
        )


class OldSchemaError(duckdb.Error):
    """The file was made with another schema."""


class DamagedError(UserError):
    """The lineage file cannot be read."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path.name} cannot be read ({first_line(error)}); run rmw lineage rebuild to make it anew")


def _has_schema(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return False for a new file, which has no table.

    Raises:
        OldSchemaError: the file was made with another schema.
    """
    # Asked in this order, as the list of tables takes as long as the rest of a write.
    try:
        found = connection.execute("from indexed_with").fetchall()
    except duckdb.CatalogException:
        if not connection.execute("from duckdb_tables()").fetchall():
            return False
        found = []
    if found != [(schema_id(),)]:
        raise OldSchemaError("the file has another schema")
    return True


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _remove(path: Path) -> None:
    for left in (path, _wal(path)):
        left.unlink(missing_ok=True)


def _report(problems: list[UserError]) -> None:
    for problem in problems:
        logger.warning("lineage will be indexed later: %s", problem)
