"""What the web UI shows of an artifact: its rows, its columns, and the columns of other assets that they come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact

# The table that stands for an asset of a kind, the first that the artifact has. Of other kinds the page shows no rows
# and no columns: what counts of a checkpoint or of scores is no table, and would stand below one.
TABLES = {
    "raw": ("occurrences.parquet",),
    "rollouts": ("completions.parquet",),
    "labels": ("occurrences.parquet",),
    "pairs": ("pairs.parquet",),
    "benchmark": ("items.parquet",),
    "mixture": ("labelled.parquet", "pairs.parquet"),
    "tokens": ("pairs.parquet",),
    "ranked": ("ranked.parquet",),
    "sft_dpo": ("dpo.parquet",),
}
# Columns that come from columns of another name, by kind: column -> (kind of the asset upstream, column there). Beside
# them, a column comes from those of its own name.
RENAMED: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "pairs": {
        "pair_id": (("raw", "response_id"), ("raw", "source")),
        "pair_key": (("raw", "prompt_id"), ("raw", "response_id")),
        "chosen_id": (("raw", "response_id"),),
        "rejected_id": (("raw", "response_id"),),
        "chosen_score": (("raw", "ratings"),),
        "rejected_score": (("raw", "ratings"),),
    },
    "mixture": {
        "split": (("pairs", "prompt_id"), ("raw", "prompt_id")),
        "group_id": (("pairs", "prompt_id"), ("raw", "prompt_id")),
        "leak": (("benchmark", "prompt_id"),),
    },
    "ranked": {
        "response_ids": (("raw", "response_id"),),
        "responses": (("raw", "response_id"),),
        "messages": (("raw", "prompt_id"),),
    },
    "sft_dpo": {
        "prompt": (("ranked", "messages"),),
        "chosen": (("ranked", "responses"), ("ranked", "scores")),
        "rejected": (("ranked", "responses"), ("ranked", "scores")),
        "score_gap": (("ranked", "scores"),),
    },
}
DESCRIPTIONS = {
    "pair_id": "One occurrence of a pair: content, source and which time it occurs there.",
    "pair_key": "The pair by its content; seeds every random choice.",
    "prompt_id": "Hash of the exact messages of the prompt.",
    "response_id": "Hash of the prompt and the exact text of the reply.",
    "response_ids": "The replies of an item, correct ones first.",
    "chosen_id": "The preferred reply.",
    "rejected_id": "The other reply.",
    "chosen_score": "What the source says of the preferred reply.",
    "rejected_score": "What the source says of the other reply.",
    "weight": "Weight of the pair in the loss.",
    "source": "The raw data set.",
    "file": "File of the source.",
    "row": "1-based line in JSONL, 0-based row in Parquet.",
    "slot": "Where the row shows the reply.",
    "model": "The model that wrote the reply, where it is known.",
    "ratings": "The source's ratings of the reply by name.",
    "group_id": "What stays on one side of the split.",
    "split": "train or test.",
    "leak": "The benchmark item that the pair is a leak of.",
    "pair_set": "The pair set that the pair comes from.",
    "label": "Right or wrong, or a rating.",
    "benchmark": "The evaluation set.",
    "item_id": "One item of a benchmark.",
    "subset": "Part of the benchmark.",
    "num_correct": "How many of the replies are correct.",
    "score": "The reward.",
    "messages": "The turns of the prompt; of data for TRL's SFTTrainer with the reply.",
    "responses": "The candidates.",
    "scores": "The rewards of the candidates.",
    "best": "Index of the highest reward, the first of equal ones.",
    "prompt": "The turns of the prompt.",
    "chosen": "The reply with the highest reward.",
    "rejected": "The reply with the lowest reward.",
    "score_gap": "Reward of the chosen reply minus that of the rejected one.",
}


def table_metadata(artifact: Artifact, inputs: tuple[Artifact, ...]) -> dict[str, Any]:
    """Return the number of rows, the columns and where they come from, under the names that Dagster knows.

    Args:
        inputs: what the artifact was made from.

    Returns:
        nothing for an artifact that is no table.
    """
    table = _table(artifact)
    if table is None:
        return {}
    columns = _columns(artifact, table)
    described = [dg.TableColumn(name, kind, DESCRIPTIONS.get(name)) for name, kind in columns.items()]
    metadata: dict[str, Any] = {
        "dagster/row_count": _num_rows(artifact, table),
        "dagster/column_schema": dg.TableSchema(described),
        "columns_of": table,
    }
    lineage = {name: list(_sources(name, artifact.kind, inputs)) for name in columns}
    if any(lineage.values()):
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(
            {name: deps for name, deps in lineage.items() if deps}
        )
    return metadata


def plotted_counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """Return numbers under names that stay, which the web UI plots over the runs: drops by rule, splits by source."""
    dropped: Mapping[str, int] = facts.get("dropped") or {}
    sources: Mapping[str, Mapping[str, Any]] = facts.get("sources") or {}
    by_source = {
        f"{split}_{source}": counts[split]
        for source, counts in sources.items()
        for split in ("train", "test")
        if split in counts
    }
    return {**{f"dropped_{rule}": number for rule, number in dropped.items()}, **by_source}


def _table(artifact: Artifact) -> str | None:
    names = TABLES.get(artifact.kind, ())
    return next((name for name in names if name in artifact.manifest["files"]), None)


def _columns(artifact: Artifact, table: str) -> dict[str, str]:
    import pyarrow.parquet as pq

    schema = pq.read_schema(artifact.folder / table)
    return {field.name: str(field.type) for field in schema}


def _num_rows(artifact: Artifact, table: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(artifact.folder / table).num_rows)


def _sources(column: str, kind: str, inputs: tuple[Artifact, ...]) -> Iterator[dg.TableColumnDep]:
    """Yield the columns of the inputs that one column comes from."""
    renamed = RENAMED.get(kind, {}).get(column, ())
    for one in inputs:
        table = _table(one)
        there = _columns(one, table) if table else {}
        named = [name for upstream, name in renamed if upstream == one.kind] or [column]
        yield from (dg.TableColumnDep(dg.AssetKey(one.asset), name) for name in named if name in there)
