"""What one event puts into the lineage tables: facts of its manifest, and rows counted in its Parquet files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact
from rm_workflow.database import connect, quote_identifier, quote_literal
from rm_workflow.errors import UserError

# Files of a checkpoint with a line a step, and what stands before their figures' names.
METRIC_FILES = {"metrics.jsonl": "", "validation.jsonl": "validation_"}
# Facts of a manifest that count rows.
COUNTED = (
    *("rows", "used", "candidates", "pairs", "responses", "trajectories", "kept", "train", "test", "items", "hits"),
)
# Kinds whose rows come from sources, and the tables of those that they keep, the first that is there.
FROM_SOURCES = ("raw", "pairs", "mixture", "tokens")
KEPT_TABLES = ("labelled.parquet", "pairs.parquet", "occurrences.parquet")
DROPPED_TABLE = "dropped.parquet"
# Where the scores of single items lie: of the mixture's own test split, and of benchmarks.
TEST, TEST_PAIRS, ITEM_SCORES = "test", "test_pairs.parquet", "item_scores.parquet"

# Events that say which checkpoint is main, or why one is not (rm_workflow/evaluation/promotion.py).
PROMOTIONS = ("promotion", "rollback", "refusal")
PROMOTION_FACTS = (*("previous", "metric", "score", "ci_low", "ci_high", "contamination", "num_candidates", "reason"),)

Values = Sequence[Any]
Table = tuple[str, Sequence[Values]]


def event_rows(event: Mapping[str, Any], artifact: Artifact | None) -> Iterator[Table]:
    """Yield (table, rows) of what an event says by itself.

    Args:
        artifact: what the event is about, where it is published.
    """
    sequence, asset, version = (event.get(name) for name in ("sequence", "asset", "version"))
    run_id = event.get("run_id") or None
    yield "indexed_event", [[sequence]]
    said = (event.get(name) for name in ("kind", "overridden", "time", "error"))
    yield "run_output", [[sequence, run_id, asset, version, *said]]
    inputs = artifact.manifest["inputs"] if artifact else event.get("inputs", [])
    yield "run_input", [[sequence, run_id, asset, used["asset"], used["version"]] for used in inputs]
    yield "check_result", _checks(sequence, run_id, asset, version, event.get("checks", []))
    if event["kind"] in PROMOTIONS:
        named = (event.get(name) for name in ("recipe", "kind", "asset", "version", "partition", *PROMOTION_FACTS))
        yield "promotion", [[sequence, run_id, *named]]


def version_rows(event: Mapping[str, Any], artifact: Artifact) -> Iterator[Table]:
    """Yield (table, rows) of what a published version's manifest says; the first event that names it brings it in."""
    manifest, facts = artifact.manifest, artifact.facts
    key = (artifact.asset, artifact.version)
    named = (manifest[name] for name in ("kind", "partition", "code_version", "requested"))
    listed = (json.dumps(manifest[name]) for name in ("parameters", "packages"))
    yield "dataset_version", [[*key, *named, *listed, manifest["run_id"], manifest["created"]]]
    yield "version_input", [[*key, used["asset"], used["version"]] for used in manifest["inputs"]]
    yield (
        "external_file",
        [[*key, file["name"], file["sha256"], file.get("revision")] for file in manifest["external_files"]],
    )
    yield "version_file", [[*key, name, file["bytes"], file["sha256"]] for name, file in manifest["files"].items()]
    yield "row_count", [[*key, stage, facts[stage]] for stage in COUNTED if isinstance(facts.get(stage), int)]
    yield "drop_count", [[*key, rule, number] for rule, number in facts.get("dropped", {}).items()]
    yield "check_result", _checks(event["sequence"], event.get("run_id"), *key, manifest["checks"])
    if artifact.kind == "checkpoint":
        names = ("base", "objective", "num_train_pairs", "num_steps", "seconds")
        yield "checkpoint", [[*key, *(facts[name] for name in names)]]
    if artifact.kind == "scores":
        yield "benchmark_score", list(_benchmark_scores(artifact))


# The tables of what stands in an artifact's files alone, and goes with them.
OF_FILES = ("source_count", "training_metric", "item_score_file")


def file_rows(artifact: Artifact) -> Iterator[Table]:
    """Yield (table, rows) of what the files of a published version hold, for each table of ``OF_FILES``.

    Raises:
        UserError: one of its tables cannot be read.
    """
    key = (artifact.asset, artifact.version)
    yield "source_count", [[*key, *row] for row in _source_counts(artifact)]
    if artifact.kind == "checkpoint":
        yield "training_metric", _training_metrics(artifact)
    if artifact.kind == "scores":
        yield "item_score_file", _item_score_files(artifact)


def insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Values]) -> None:
    """Insert rows in one statement: a statement a row takes a hundred times as long."""
    if rows:
        columns = list(map(list, zip(*rows, strict=True)))
        lists = ", ".join("unnest(?)" for _ in columns)
        connection.execute(f"insert into {quote_identifier(table)} select {lists}", columns)


def _checks(sequence: Any, run_id: Any, asset: Any, version: Any, checks: Sequence[Mapping[str, Any]]) -> list[Values]:
    return [
        [sequence, run_id, asset, version, c["name"], c["passed"], c["description"], json.dumps(c["metadata"])]
        for c in checks
    ]


def _source_counts(artifact: Artifact) -> Sequence[Values]:
    """Return (source, rule, split, number) of an artifact whose rows come from sources."""
    files = artifact.manifest["files"]
    kept = next((name for name in KEPT_TABLES if name in files), None)
    if artifact.kind not in FROM_SOURCES or kept is None:
        return []
    split = "split" if artifact.kind in ("mixture", "tokens") else "null"
    # An occurrence is one response of a row, and a row may show several.
    number = "count(distinct (file, row))" if artifact.kind == "raw" else "count(*)"
    queries = [f"select source, null as rule, {split} as split, {number} from {_table(artifact, kept)} group by all"]
    if DROPPED_TABLE in files:
        dropped = _table(artifact, DROPPED_TABLE)
        queries.append(f"select source, rule, null, count(*) from {dropped} group by all")
    try:
        with connect() as con:
            return con.execute(f"{' union all '.join(queries)} order by all").fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"artifact {artifact.id}: its tables cannot be read ({first}); delete the folder "
            f"artifacts/{artifact.asset}/{artifact.version} and run again"
        ) from error


def _table(artifact: Artifact, name: str) -> str:
    return f"read_parquet({quote_literal(str(artifact.folder / name))})"


def _training_metrics(artifact: Artifact) -> list[Values]:
    return [
        [artifact.asset, artifact.version, metrics["step"], prefix + name, float(value)]
        for file, prefix in METRIC_FILES.items()
        for metrics in _json_lines(artifact.folder / file)
        for name, value in metrics.items()
        if name != "step" and isinstance(value, int | float)
    ]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def files_read(artifact: Artifact) -> list[str]:
    """Return the files of an artifact that ``file_rows`` reads."""
    read = {"checkpoint": [*METRIC_FILES]}.get(artifact.kind, [])
    if artifact.kind in FROM_SOURCES:
        read = [*KEPT_TABLES, DROPPED_TABLE]
    return [name for name in read if name in artifact.manifest["files"]]


def _of_checkpoint(artifact: Artifact) -> tuple[str, str, str, str]:
    """Return asset and version of scores, and those of the checkpoint that they are of."""
    used = next(entry for entry in artifact.manifest["inputs"] if entry["kind"] == "checkpoint")
    return artifact.asset, artifact.version, used["asset"], used["version"]


def _benchmark_scores(artifact: Artifact) -> Iterator[Values]:
    figures = ("score", "n", "ci_low", "ci_high", "ties", "contamination")
    for benchmark, result in artifact.facts["scores"].items():
        parts = {"": result, **(result.get("per_source") or {})}
        for part, value in parts.items():
            yield [*_of_checkpoint(artifact), benchmark, part, *(value.get(name) for name in figures)]


def _item_score_files(artifact: Artifact) -> list[Values]:
    by_benchmark = {name: TEST_PAIRS if name == TEST else ITEM_SCORES for name in artifact.facts["scores"]}
    files = artifact.manifest["files"]
    return [[*_of_checkpoint(artifact), name, file] for name, file in by_benchmark.items() if file in files]
