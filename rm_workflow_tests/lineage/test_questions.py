"""What the newest and the oldest are, and what counts as trained on, in homes written by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.artifacts import Artifact, ArtifactStore, Built, Request
from rm_workflow.lineage import questions
from rm_workflow.lineage.store import LineageStore, sql

FACTS = {"base": "tiny", "objective": "bradley_terry", "num_train_pairs": 1, "num_steps": 1, "seconds": 1.0}
SCORE = {"score": 0.5, "n": 2, "ci_low": 0.1, "ci_high": 0.9}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture
def lineage(store: ArtifactStore) -> LineageStore:
    return LineageStore(store)


def publish(
    store: ArtifactStore,
    asset: str,
    kind: str,
    inputs: tuple[Artifact, ...],
    facts: dict[str, object],
    tables: dict[str, dict[str, list[str]]],
    number: int = 0,
) -> Artifact:
    def build(out: Path) -> Built:
        (out / "made.txt").write_text(asset)
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), out / name)
        return Built(facts)

    return store.materialize(Request(asset, kind, "1", {"number": number}, inputs), build, "run-1").artifact


def tokens_of(store: ArtifactStore) -> Artifact:
    pairs = {"pair_id": ["a", "b"], "pair_key": ["a", "b"], "source": ["toy"] * 2, "split": ["train", "test"]}
    return publish(store, "toy_tokens", "tokens", (), {"kept": 2}, {"pairs.parquet": pairs})


def checkpoint_of(store: ArtifactStore, tokens: Artifact, number: int) -> Artifact:
    return publish(store, "toy_checkpoint", "checkpoint", (tokens,), FACTS, {}, number)


def test_checkpoints_of_a_train_pair_come_oldest_first_and_those_of_a_test_pair_not_at_all(
    store: ArtifactStore, lineage: LineageStore
):
    tokens = tokens_of(store)
    checkpoints = [checkpoint_of(store, tokens, number) for number in range(6)]
    lineage.catch_up()
    ids = [checkpoint.id for checkpoint in checkpoints]
    assert questions.checkpoints_trained_on(lineage, store, ["a"]) == ids
    assert questions.checkpoints_trained_on(lineage, store, ["b"]) == []


def test_the_item_scores_are_those_of_the_newest_scores_also_when_they_are_reused(
    store: ArtifactStore, lineage: LineageStore
):
    tokens = tokens_of(store)
    checkpoint = checkpoint_of(store, tokens, 0)

    def score(number: int) -> Artifact:
        tables = {"test_pairs.parquet": {"pair_id": ["b"]}}
        scores = {"scores": {"test": SCORE}}
        return publish(store, "toy_scores", "scores", (checkpoint, tokens), scores, tables, number)

    def newest() -> list[str]:
        lineage.catch_up()
        rows = lineage.rows(sql("queries/item_scores.sql"), {"asset": checkpoint.asset, "version": checkpoint.version})
        return [row["version"] for row in rows]

    first, second = score(1), score(2)
    assert newest() == [second.version]
    score(1)
    assert newest() == [first.version]


def test_of_a_mixture_of_responses_the_responses_are_counted(store: ArtifactStore, lineage: LineageStore):
    labelled = {"response_id": ["x", "y", "z"], "source": ["toy"] * 3, "split": ["train", "train", "test"]}
    pairs = {"pair_id": ["p"], "source": ["toy"], "split": ["train"]}
    tables = {"labelled.parquet": labelled, "pairs.parquet": pairs}
    publish(store, "toy_mixture", "mixture", (), {"kept": 3}, tables)
    lineage.catch_up()
    assert lineage.query("select split, rule, num_rows from source_count order by all") == [
        ("test", None, 1),
        ("train", None, 2),
    ]


@pytest.mark.parametrize("unit", ["pairs", "responses", "trajectories"])
def test_the_funnel_knows_how_many_rows_of_any_unit_were_tokenised(
    store: ArtifactStore, lineage: LineageStore, unit: str
):
    mixture = store.materialize(Request("toy_mixture", "mixture", "1", {}), lambda out: built(out, {"kept": 7}), "run")
    tokens = Request("toy_tokens", "tokens", "1", {}, inputs=(mixture.artifact,))
    store.materialize(tokens, lambda out: built(out, {unit: 7, "kept": 5, "dropped": {"too_long": 2}}), "run")
    lineage.catch_up()
    (row,) = [row for row in questions.funnel(lineage, "toy_mixture") if row["kind"] == "tokens"]
    assert (row["came_in"], row["kept"]) == (7, 5)


def built(out: Path, facts: dict[str, object]) -> Built:
    (out / "made.txt").write_text("made")
    return Built(facts)
