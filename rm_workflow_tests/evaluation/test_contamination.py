import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.evaluation.contamination import judged, leaked_items, read_leaked
from rm_workflow_tests.evaluation.stored_scores import item_ids, publish_benchmark, publish_scores

SCORE = {"score": 0.7, "n": 10, "ci_low": 0.4, "ci_high": 0.9, "ties": 1}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home")


@pytest.fixture
def mine(store: ArtifactStore) -> Artifact:
    rows = [
        {"id": n, "prompt": f"Question {n}?", "subset": subset, "chosen": ["Yes."], "rejected": ["No", "Never", "?"]}
        for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus")
        for n in range(4)
    ]
    rows += [
        {
            "id": f"{kind}:{n}",
            "prompt": f"Tie {n} {kind}?",
            "subset": "Ties",
            "chosen": ["Yes."] * k,
            "rejected": ["No"],
        }
        for n in range(3)
        for kind, k in (("ref", 1), ("tied", 2))
    ]
    counted = [row | {"num_correct": len(row["chosen"])} for row in rows]
    return publish_benchmark(store, "mine", "rewardbench2", counted)


def test_the_headline_of_a_leaky_benchmark_is_its_rule_on_clean_items(store: ArtifactStore, mine: Artifact):
    wrong = item_ids(mine)[0]
    table = pq.read_table(mine.folder / "items.parquet").to_pylist()
    right = {row["item_id"]: [1.0] * row["num_correct"] + [0.0] * 9 for row in table}
    scores = {row["item_id"]: right[row["item_id"]][: len(row["response_ids"])] for row in table}
    scores[wrong] = [0.0, 1.0, 0.0, 0.0]

    found = publish_scores(store, "toy", [1.0, -1.0], {"mine": (mine, scores)}, {"mine": [wrong]}).facts["scores"]

    of_all = publish_scores(store, "other", [1.0, -1.0], {"mine": (mine, scores)}).facts["scores"]["mine"]
    assert found["mine"]["score"] > of_all["score"]
    assert found["mine"]["n"] == of_all["n"] - 1
    assert found["mine"]["contamination"] == "leaky"
    assert found["mine"]["leaked_items"] == 1
    assert found["mine"]["all_items"] == {key: of_all[key] for key in ("score", "n", "ci_low", "ci_high", "ties")}
    assert of_all["contamination"] == "clean"
    assert "all_items" not in of_all


def test_leaked_test_pairs_leave_headline_sources_and_nulls(store: ArtifactStore):
    artifact = publish_scores(store, "toy", [1.0, 1.0, -1.0, 1.0], leaked={"test": ["p2"]})

    found = artifact.facts["scores"]["test"]
    assert (found["score"], found["n"], found["all_items"]["score"]) == (1.0, 3, 0.75)
    assert {name: part["n"] for name, part in found["per_source"].items()} == {"hh": 2, "shp": 1}
    assert read_leaked(artifact.folder) == {"test": ["p2"]}


def test_where_nothing_is_clean_the_score_of_all_items_stays_and_says_leaky(store: ArtifactStore):
    found = publish_scores(store, "toy", [1.0, -1.0], leaked={"test": ["p0", "p1"]}).facts["scores"]["test"]

    assert (found["score"], found["n"], found["contamination"], found["leaked_items"]) == (0.5, 2, "leaky", 2)


def test_a_verdict_that_is_not_leaky_changes_no_score():
    assert judged(SCORE, None, "unknown", 0) == SCORE | {"contamination": "unknown"}
    assert judged(SCORE, None, "clean", 0) == SCORE | {"contamination": "clean"}


def test_leaked_test_items_are_prompts_and_become_their_test_pairs(tmp_path: Path):
    hits = [{"benchmark": "test", "item_id": "a"}, {"benchmark": "test", "item_id": "a"}]
    hits += [{"benchmark": "mine", "item_id": item} for item in ("y", "x")]
    pairs = [("p2", "a", "test"), ("p1", "a", "test"), ("p3", "b", "test"), ("p4", "a", "train")]
    names = ("pair_id", "prompt_id", "split")
    pq.write_table(pa.Table.from_pylist(hits), tmp_path / "overlap.parquet")
    rows = [dict(zip(names, row, strict=True)) for row in pairs]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")

    assert leaked_items(tmp_path, tmp_path) == {"mine": ["x", "y"], "test": ["p1", "p2"]}


def test_scores_without_a_list_of_leaks_have_none(tmp_path: Path):
    assert read_leaked(tmp_path) == {}


def test_leaks_of_what_was_not_scored_are_not_listed(store: ArtifactStore):
    artifact = publish_scores(store, "toy", [1.0, -1.0], leaked={"absent": ["x"]})

    assert json.loads((artifact.folder / "leaked_items.json").read_text()) == {}
