"""The one owner of the lineage file: open, one transaction, close; never held across work.

``lineage.duckdb`` is an index over manifests and events. It can be deleted at any time; the next catch-up makes it
again. DuckDB lets one process write or many read, so every open retries with jitter within a stated budget, and a
publish whose record finds the file busy leaves it to the next catch-up.
"""

import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.errors import UserError

LOCK_MESSAGE = "Could not set lock"
WRITE_BUDGET_SECONDS = 10.0
READ_BUDGET_SECONDS = 30.0
# Files of a checkpoint with a line a step, and what stands before their figures' names.
METRIC_FILES = {"metrics.jsonl": "", "validation.jsonl": "validation_"}

logger = logging.getLogger(__name__)


def sql(name: str) -> str:
    """Return the text of one of this package's SQL files."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


class LineageStore:
    """Reader and writer of the lineage tables of one RMW_HOME."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.path = store.home / "lineage.duckdb"

    def catch_up(self, asking: bool = False) -> bool:
        """Index every event that is not indexed yet, in one transaction; files of indexed events are not opened.

        Args:
            asking: a query follows, which tells of a file that cannot be opened; the log does not repeat it.

        Returns:
            False when it could not: the file is busy, damaged or read-only, or an event or artifact is damaged; the log
            says which. The next call indexes what this one left.
        """
        # The index is never worth a failed asset: the truth lies in manifests and events.
        try:
            self._index_new()
        except DamagedError as error:
            if not asking:
                logger.warning("%s", error)
            return False
        except UserError as error:
            logger.warning("lineage will be indexed later: %s", error)
            return False
        except duckdb.Error as error:
            mend = "free space there, or run rmw lineage rebuild to make it anew"
            logger.warning("%s could not be brought up to date (%s); %s", self.path, _first_line(error), mend)
            return False
        return True

    def rebuild(self) -> int:
        """Recreate the index from manifests and events alone and return the number of events.

        Raises:
            UserError: an event or artifact is damaged, or the file is busy or cannot be written.
        """
        for path in (self.path, self.path.with_name(self.path.name + ".wal")):
            path.unlink(missing_ok=True)
        try:
            return self._index_new()
        except duckdb.Error as error:
            raise UnwritableError(self.path, _first_line(error)) from error

    def _index_new(self) -> int:
        with self._open(read_only=False, budget_seconds=WRITE_BUDGET_SECONDS) as connection:
            connection.execute(sql("schema.sql"))
            connection.begin()
            indexed = {row[0] for row in connection.execute("select sequence from indexed_event").fetchall()}
            num_new = 0
            # By sequence and not from the highest one on: an event may appear below it, for instance from a backup.
            for event in self.store.events(skip=indexed):
                self._index(connection, event)
                num_new += 1
            connection.commit()
        return num_new

    def query(self, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one read-only query and return its rows.

        Raises:
            UserError: the file is damaged or busy, or is not there and cannot be made.
        """
        try:
            with self._open(read_only=True, budget_seconds=READ_BUDGET_SECONDS) as connection:
                return connection.execute(statement, dict(parameters or {})).fetchall()
        except duckdb.Error as error:
            raise DamagedError(self.path, error) from error

    @contextmanager
    def _open(self, read_only: bool, budget_seconds: float) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._connect(read_only, budget_seconds)
        try:
            yield connection
        finally:
            connection.close()

    def _connect(self, read_only: bool, budget_seconds: float) -> duckdb.DuckDBPyConnection:
        if not read_only or not self.path.exists():
            self._require_writable()
        deadline = time.monotonic() + budget_seconds
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.IOException as error:
                if LOCK_MESSAGE not in str(error):
                    if not self.path.exists():
                        raise UnwritableError(self.path, _first_line(error)) from error
                    raise DamagedError(self.path, error) from error
                if time.monotonic() > deadline:
                    raise BusyError(self.path, budget_seconds, str(error)) from error
                time.sleep(random.uniform(0.005, 0.05))

    def _require_writable(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            raise UnwritableError(self.path, "its folder does not exist")
        if not all(os.access(path, os.W_OK) for path in (folder, self.path) if path.exists()):
            raise UnwritableError(self.path, "it is read-only")

    def _index(self, connection: duckdb.DuckDBPyConnection, event: Mapping[str, Any]) -> None:
        asset, version, sequence = event["asset"], event.get("version"), event["sequence"]
        connection.execute("insert into indexed_event values (?)", [sequence])
        connection.execute(
            "insert into run_output values (?, ?, ?, ?, ?, ?, ?)",
            [sequence, event["run_id"], asset, version, event["kind"], event["overridden"], event["time"]],
        )
        _insert_checks(connection, sequence, asset, version, event.get("checks", []))
        artifact = self.store.find(asset, version) if version else None
        if artifact and not _known(connection, artifact):
            _insert_version(connection, artifact)
            _insert_checks(connection, sequence, asset, version, artifact.manifest["checks"])


class DamagedError(UserError):
    """The lineage file cannot be read."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"{path.name} cannot be read ({_first_line(error)}); run rmw lineage rebuild to make it anew")


class UnwritableError(UserError):
    """The lineage file cannot be made or written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"cannot write {path} ({reason}); make it writable, free space there or set RMW_HOME to another folder"
        )


class BusyError(UserError):
    """Another process holds the lineage file."""

    def __init__(self, path: Path, budget_seconds: float, message: str) -> None:
        holder = message.split("Conflicting lock is held in ")[-1].split(". See")[0]
        super().__init__(f"{path.name} was busy for {budget_seconds:.0f} s (held by {holder}); close that program")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _known(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> bool:
    statement = "select count(*) from dataset_version where asset = ? and version = ?"
    row = connection.execute(statement, [artifact.asset, artifact.version]).fetchone()
    return bool(row and row[0])


def _insert_version(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> None:
    manifest, key = artifact.manifest, [artifact.asset, artifact.version]
    connection.execute(
        "insert into dataset_version values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            *key,
            *(manifest[name] for name in ("kind", "partition", "code_version", "requested")),
            json.dumps(manifest["parameters"]),
            json.dumps(manifest["packages"]),
            manifest["created"],
        ],
    )
    _insert_many(
        connection, "version_input", [[*key, entry["asset"], entry["version"]] for entry in manifest["inputs"]]
    )
    _insert_many(
        connection, "external_file", [[*key, entry["name"], entry["sha256"]] for entry in manifest["external_files"]]
    )
    facts = artifact.facts
    counted = ("rows", "used", "candidates", "pairs", "kept", "train", "test", "items")
    _insert_many(connection, "row_count", [[*key, stage, facts[stage]] for stage in counted if stage in facts])
    _insert_many(connection, "drop_count", [[*key, rule, number] for rule, number in facts.get("dropped", {}).items()])
    if artifact.kind == "checkpoint":
        _insert_checkpoint(connection, artifact)
    if artifact.kind == "scores":
        _insert_scores(connection, artifact)


def _insert_checkpoint(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> None:
    facts, key = artifact.facts, [artifact.asset, artifact.version]
    names = ("base", "objective", "num_train_pairs", "num_steps", "seconds")
    _insert_many(connection, "checkpoint", [[*key, *(facts[name] for name in names)]])
    rows = [
        [*key, metrics["step"], prefix + name, value]
        for file, prefix in METRIC_FILES.items()
        for metrics in _json_lines(artifact.folder / file)
        for name, value in metrics.items()
        if name != "step" and isinstance(value, int | float)
    ]
    _insert_many(connection, "training_metric", rows)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def _insert_scores(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> None:
    checkpoint = next(entry for entry in artifact.manifest["inputs"] if entry["kind"] == "checkpoint")
    for benchmark, result in artifact.facts["scores"].items():
        parts = {"": result, **result.get("per_source", {})}
        rows = [
            [
                *(artifact.asset, artifact.version, checkpoint["asset"], checkpoint["version"], benchmark, part),
                *(value.get(name) for name in ("score", "n", "ci_low", "ci_high")),
            ]
            for part, value in parts.items()
        ]
        _insert_many(connection, "benchmark_score", rows)


def _insert_checks(
    connection: duckdb.DuckDBPyConnection, sequence: int, asset: str, version: str | None, checks: list[dict[str, Any]]
) -> None:
    rows = [
        [sequence, asset, version, c["name"], c["passed"], c["description"], json.dumps(c["metadata"])] for c in checks
    ]
    _insert_many(connection, "check_result", rows)


def _insert_many(connection: duckdb.DuckDBPyConnection, table: str, rows: list[list[Any]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"insert into {table} values ({marks})", rows)
