"""Questions about many runs at once, each one SQL file: over time, between two checkpoints, down to single pairs.

What is asked of rows themselves is asked of the Parquet files that the index names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.database import connect, quote_literal
from rm_workflow.errors import UserError
from rm_workflow.lineage.store import LineageStore, sql

Row = dict[str, Any]

TEST = "test"
PAIRS, LABELLED = "pairs.parquet", "labelled.parquet"
# What tells a kept row by its content: of a mixture of labelled responses, and of pairs.
CONTENT = {LABELLED: "response_id", PAIRS: "pair_key"}


def raw_revisions(lineage: LineageStore, artifact: Artifact) -> list[Row]:
    """Return the raw files that an artifact comes from: file, revision (None off the hub), sha256, read_by."""
    return lineage.rows(sql("queries/raw_revisions.sql"), {"asset": artifact.asset, "version": artifact.version})


def funnel(lineage: LineageStore, mixture: str) -> list[Row]:
    """Return the funnel of a mixture's data, version after version.

    Returns:
        one row for each raw, pair set, mixture and tokens asset of each version: since, run_id, mixture_version,
        overridden (the run changed the recipe), asset, version, kind, came_in, kept, change (of kept, since the version
        before), train, test, dropped (rule -> number).
    """
    rows = lineage.rows(sql("queries/funnel.sql"), {"mixture": mixture})
    return [{**row, "dropped": dict(row["dropped"] or {})} for row in rows]


def counts_over_runs(
    lineage: LineageStore, asset: str | None = None, source: str | None = None, rule: str | None = None
) -> list[Row]:
    """Return what was kept (rule ``kept``) and dropped of each source at each run, oldest first; None takes all.

    Returns:
        rows of sequence, recorded, run_id, event, asset, version, source, rule, num_rows.
    """
    return lineage.rows(sql("queries/counts_over_runs.sql"), {"asset": asset, "source": source, "rule": rule})


def changes(lineage: LineageStore, a: Artifact, b: Artifact) -> list[Row]:
    """Return what differs between two artifacts and all that they are made from.

    Returns:
        rows of what (data, code, config or versions), part (an asset's name or kind), field, a, b (texts; None where
        there is no such thing).
    """
    sides = {"asset_a": a.asset, "version_a": a.version, "asset_b": b.asset, "version_b": b.version}
    return lineage.rows(sql("queries/changes.sql"), sides)


def shared(a: Artifact, b: Artifact) -> list[Row]:
    """Return what two mixtures or pair sets both hold, by content, whatever row it comes from.

    Returns:
        rows of source (in A), split_a, split_b (None in a pair set), num_shared, num_same_row (how many of them come
        from the same row of the same file).

    Raises:
        UserError: one holds no pairs or labelled responses, or they hold different things.
    """
    file = _rows_file(a)
    if file != _rows_file(b):
        raise UserError(f"{a.id} and {b.id} share nothing: one holds pairs, the other labelled responses")
    with connect() as con:
        for side, artifact in (("a", a), ("b", b)):
            con.execute(f"create view {side} as {_content(artifact, file)}")
        return _dicts(con.execute(sql("queries/shared.sql")))


def train_pairs(store: ArtifactStore, a: Artifact, b: Artifact) -> dict[str, int] | None:
    """Return how many pairs two checkpoints were trained on, and how many both, by content; None where one is gone."""
    tokens = [next((one for one in store.inputs_of(side) if one.kind == "tokens"), None) for side in (a, b)]
    tables = [_parquet(one.folder / PAIRS) for one in tokens if one and PAIRS in one.manifest["files"]]
    if len(tables) < len(tokens):
        return None
    with connect() as con:
        for side, table in zip("ab", tables, strict=True):
            con.execute(f"create view {side} as select distinct pair_key from {table} where split = 'train'")
        row = con.execute(sql("queries/train_pairs.sql")).fetchone()
    assert row is not None
    return dict(zip(("a", "b", "both"), row, strict=True))


def _rows_file(artifact: Artifact) -> str:
    for file in CONTENT:
        if artifact.kind in ("mixture", "pairs") and file in artifact.manifest["files"]:
            return file
    raise UserError(f"{artifact.id} holds no pairs; name a _mixture or a pairs_ asset")


def _content(artifact: Artifact, file: str) -> str:
    split = "split" if artifact.kind == "mixture" else "null::varchar as split"
    return f"select {CONTENT[file]} as key, source, file, row, {split} from {_parquet(artifact.folder / file)}"


def checkpoints_trained_on(lineage: LineageStore, store: ArtifactStore, ids: Sequence[str]) -> list[str]:
    """Return ``asset@version`` of every checkpoint, old ones too, trained on one of these pair_ids or label_ids."""
    found: dict[str, None] = {}
    for row in lineage.rows(sql("queries/trained_on.sql")):
        tokens = store.take(row["tokens_asset"], row["tokens_version"])
        if tokens and has_train_row(tokens, ids):
            found.update(dict.fromkeys(row["checkpoints"]))
    return list(found)


def has_train_row(tokens: Artifact, ids: Sequence[str]) -> bool:
    """Return whether the train split of tokens holds one of these pairs (by pair_id) or labels (by label_id)."""
    files = {PAIRS: "pair_id", LABELLED: "label_id"}
    asked = [
        f"select 1 from {_parquet(tokens.folder / file)} where split = 'train' and list_contains($ids, {name})"
        for file, name in files.items()
        if file in tokens.manifest["files"]
    ]
    with connect() as con:
        return con.execute(f"{' union all '.join(asked)} limit 1", {"ids": list(ids)}).fetchone() is not None


def worst_pairs(
    lineage: LineageStore, store: ArtifactStore, checkpoint: Artifact, source: str | None = None, n: int = 10
) -> list[Row]:
    """Return the test pairs of a source (None: of all) on which a checkpoint is most wrong, by its newest scores.

    Returns:
        rows of pair_id, source, file, row, score_chosen, score_rejected, margin (below 0, the lowest first), messages
        (of the prompt), chosen, rejected.

    Raises:
        UserError: the checkpoint's test split was never scored.
    """
    key = {"asset": checkpoint.asset, "version": checkpoint.version}
    of_test = [row for row in lineage.rows(sql("queries/item_scores.sql"), key) if row["benchmark"] == TEST]
    scores = store.take(of_test[0]["asset"], of_test[0]["version"]) if of_test else None
    tokens = store.take(of_test[0]["tokens_asset"], of_test[0]["tokens_version"]) if of_test else None
    if scores is None or tokens is None:
        raise UserError(
            f"checkpoint {checkpoint.id} has no scores on its test split; run its recipe to scores with `test` in "
            "evaluation.evaluate_on"
        )
    (mixture,) = (one for one in store.inputs_of(tokens) if one.kind == "mixture")
    raws = [raw.folder for raw in _raws(store, mixture)]
    with connect() as con:
        wanted = {"scores": str(scores.file(of_test[0]["file"])), "source": source, "n": n}
        con.execute(f"create table worst as {sql('queries/worst_pairs.sql')}", wanted)
        # Ids are listed one by one, so that little of the tables is read: each is ordered by prompt.
        pairs = f"{_parquet(mixture.folder / PAIRS)} where pair_id in ({_listed(con, 'pair_id', 'worst')})"
        con.execute(f"create view pairs as from {pairs}")
        con.execute(f"create table placed as {sql('queries/placed_pairs.sql')}")
        of_prompts = f"prompt_id in ({_listed(con, 'prompt_id', 'placed')})"
        for name in ("responses", "prompts"):
            tables = _parquet(*(folder / f"{name}.parquet" for folder in raws))
            con.execute(f"create view {name} as from {tables} where {of_prompts}")
        return _dicts(con.execute(sql("queries/pair_texts.sql")))


def sources_scored(lineage: LineageStore, checkpoint: Artifact) -> list[str]:
    """Return the sources of a checkpoint's test split."""
    query = """
        select distinct part from benchmark_score
        where checkpoint_asset = $asset and checkpoint_version = $version and benchmark = 'test' and part != ''
        order by part
    """
    return [part for (part,) in lineage.query(query, {"asset": checkpoint.asset, "version": checkpoint.version})]


def _raws(store: ArtifactStore, artifact: Artifact) -> list[Artifact]:
    """Return the raw artifacts that hold the texts of a mixture, each once."""
    found: dict[str, Artifact] = {}
    for one in store.inputs_of(artifact):
        for raw in _raws(store, one) if one.kind == "pairs" else [one] if one.kind in ("raw", "labels") else []:
            found[raw.id] = raw
    return list(found.values())


def _listed(con: duckdb.DuckDBPyConnection, column: str, table: str) -> str:
    """Return SQL for the values of a column, which are ids."""
    found = con.execute(f"select distinct {column} from {table} order by all").fetchall()
    return ", ".join(quote_literal(value) for (value,) in found) or "null"


def _dicts(found: duckdb.DuckDBPyConnection) -> list[Row]:
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _parquet(*paths: Path) -> str:
    return f"read_parquet([{', '.join(quote_literal(str(path)) for path in paths)}])"
