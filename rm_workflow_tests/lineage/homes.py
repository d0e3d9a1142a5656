"""Homes with lineage, written by hand in milliseconds, and all that their index says."""

from pathlib import Path

import duckdb

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Check, ExternalFile, Request
from rm_workflow.lineage.store import LineageStore


def build(out: Path) -> Built:
    (out / "rows.txt").write_text("abc")
    facts = {"candidates": 10, "kept": 7, "dropped": {"equal_score": 3, "cap": 0}}
    return Built(facts, (Check("law", True, "Nothing vanishes.", {"candidates": 10}),))


def publish(
    store: ArtifactStore, asset: str, kind: str, *inputs: Artifact, files: tuple[ExternalFile, ...] = ()
) -> Artifact:
    request = Request(asset, kind, "1", {"asset": asset}, inputs, files)
    return store.materialize(request, build, "run-1").artifact


def chain(store: ArtifactStore) -> list[Artifact]:
    file = ExternalFile("org/name/train.jsonl", Path("train.jsonl"), "f" * 64, "c" * 40)
    raw = publish(store, "raw_toy", "raw", files=(file,))
    pairs = publish(store, "pairs_toy", "pairs", raw)
    return [raw, pairs, publish(store, "toy_mixture", "mixture", pairs)]


def contents(lineage: LineageStore) -> dict[str, list[tuple[object, ...]]]:
    """Return every table, sorted."""
    with duckdb.connect(str(lineage.path), read_only=True) as con:
        tables = con.execute("select table_name from duckdb_tables() order by all").fetchall()
        return {name: con.execute(f"from {name} order by all").fetchall() for (name,) in tables}
