"""Rows, columns and column lineage as the web UI shows them."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.assets.columns import plotted_counts, table_metadata


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def publish(
    store: ArtifactStore, asset: str, kind: str, table: str, columns: dict[str, list[str]], *inputs: Artifact
) -> Artifact:
    def build(out: Path) -> Built:
        pq.write_table(pa.table(columns), out / table)
        return Built({})

    return store.materialize(Request(asset, kind, "1", {}, inputs), build, "run-1").artifact


def sources(metadata: dict[str, dg.TableColumnLineage], column: str) -> set[str]:
    deps = metadata["dagster/column_lineage"].deps_by_column.get(column, [])
    return {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in deps}


def test_a_column_comes_from_the_columns_of_its_own_name_and_from_renamed_ones(store: ArtifactStore):
    raw_columns = {name: ["x"] for name in ("prompt_id", "response_id", "source", "slot")}
    raw = publish(store, "raw_toy", "raw", "occurrences.parquet", raw_columns)
    pair_columns = {name: ["x", "y", "z"] for name in ("pair_key", "prompt_id", "chosen_id", "weight")}
    pairs = publish(store, "pairs_toy", "pairs", "pairs.parquet", pair_columns, raw)
    metadata = table_metadata(pairs, (raw,))
    assert metadata["dagster/row_count"] == 3
    assert [column.name for column in metadata["dagster/column_schema"].columns] == list(pair_columns)
    assert {column.type for column in metadata["dagster/column_schema"].columns} == {"string"}
    assert sources(metadata, "prompt_id") == {"raw_toy.prompt_id"}
    assert sources(metadata, "chosen_id") == {"raw_toy.response_id"}
    assert sources(metadata, "pair_key") == {"raw_toy.prompt_id", "raw_toy.response_id"}
    assert sources(metadata, "weight") == set()


def test_every_input_that_holds_a_column_is_told(store: ArtifactStore):
    sets = [publish(store, f"pairs_{n}", "pairs", "pairs.parquet", {"pair_id": [n]}) for n in ("a", "b")]
    bench = publish(store, "bench_x", "benchmark", "items.parquet", {"prompt_id": ["p"], "item_id": ["i"]})
    mixture = publish(store, "toy_mixture", "mixture", "pairs.parquet", {"pair_id": ["a"], "leak": [""]}, *sets, bench)
    metadata = table_metadata(mixture, (*sets, bench))
    assert sources(metadata, "pair_id") == {"pairs_a.pair_id", "pairs_b.pair_id"}
    assert sources(metadata, "leak") == {"bench_x.prompt_id"}


@pytest.mark.parametrize("kind", ["base", "run_config", "checkpoint", "scores", "card", "best", "audit", "overlap"])
def test_what_is_no_table_has_no_rows_and_no_columns(store: ArtifactStore, kind: str):
    artifact = publish(store, f"toy_{kind}", kind, "item_scores.parquet", {"a": ["b"]})
    assert table_metadata(artifact, ()) == {}


def test_counts_have_names_that_stay_over_the_runs():
    facts = {"dropped": {"cap": 3, "leak": 0}, "sources": {"toy": {"train": 5, "test": 2}}}
    assert plotted_counts(facts) == {"dropped_cap": 3, "dropped_leak": 0, "train_toy": 5, "test_toy": 2}
    assert plotted_counts({"scores": {}}) == {}
