import json
from collections.abc import Callable

import numpy as np
import pytest

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.evaluation.standings import boards
from rm_workflow_tests.cli.conftest import Answer, Project
from rm_workflow_tests.evaluation.stored_scores import publish_scores

Rmw = Callable[..., Answer]


def margins(seed: int, gain: float) -> list[float]:
    return (np.random.default_rng(seed).normal(size=200) + gain).tolist()


@pytest.fixture
def store(project: Project) -> ArtifactStore:
    return ArtifactStore(project.home)


def board(rmw: Rmw, *arguments: str) -> list[dict]:
    answer = rmw("leaderboard", *arguments, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_checkpoints_stand_best_first_with_interval_rank_and_verdict(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "bad", margins(0, 0.0))
    publish_scores(store, "good", margins(1, 2.0), leaked={"test": ["p0"]})
    publish_scores(store, "nearly", margins(2, 1.9))

    rows = board(rmw, "--benchmark", "test")

    assert [row["recipe"] for row in rows][-1] == "bad"
    assert {row["recipe"] for row in rows} == {"good", "nearly", "bad"}
    assert [(row["rank"], row["rank_low"], row["rank_high"]) for row in rows] == [(1, 1, 2), (2, 1, 2), (3, 3, 3)]
    assert all(row["ci_low"] < row["score"] < row["ci_high"] and row["benchmark"] == "test" for row in rows)
    verdicts = {row["recipe"]: row["contamination"] for row in rows}
    assert verdicts == {"good": "leaky", "nearly": "clean", "bad": "clean"}
    leaky = next(row for row in rows if row["recipe"] == "good")
    assert (leaky["n"], leaky["all_items"]["n"], leaky["ranked_among"]) == (199, 200, 3)


def test_items_that_leaked_to_one_decide_the_rank_of_none(store: ArtifactStore, rmw: Rmw):
    same = margins(0, 0.5)
    publish_scores(store, "leaky", [1.0] * 40 + same[40:], leaked={"test": [f"p{n}" for n in range(40)]})
    publish_scores(store, "other", [-1.0] * 40 + same[40:])

    rows = board(rmw, "--benchmark", "test")

    assert [(row["rank"], row["rank_low"], row["rank_high"]) for row in rows] == [(1, 1, 2), (1, 1, 2)]


def test_test_splits_of_other_mixtures_are_not_ranked_together(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "one", margins(0, 0.0))
    publish_scores(store, "two", margins(1, 2.0), prefix="q")

    assert [(row["rank"], row["ranked_among"]) for row in board(rmw, "--benchmark", "test")] == [(1, 1), (1, 1)]


def test_tables_hold_checkpoints_with_the_same_items(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "one", margins(0, 0.0))
    publish_scores(store, "also_one", margins(1, 0.1))
    publish_scores(store, "two", margins(2, 2.0), prefix="q")

    rows = board(rmw, "--benchmark", "test")
    assert [row["recipe"] for row in rows][-1] == "two", "sets of items are not mixed, though it scores highest"
    assert rows[0]["item_set"] == rows[1]["item_set"] != rows[2]["item_set"]
    shown = rmw("leaderboard", "--benchmark", "test").out
    assert shown.index("test: split of also_one, one (items ") < shown.index("test: split of two (items ")


def test_two_revisions_of_a_benchmark_are_headed_by_its_name_and_items():
    rows = [{"item_set": digits * 8, "items_of": "rb2"} for digits in ("0a", "1b")]
    assert list(boards("rb2", rows)) == ["rb2 (items 0a0a0a0a)", "rb2 (items 1b1b1b1b)"]
    assert list(boards("rb2", rows[:1])) == ["rb2"]


def test_a_score_of_few_clean_items_stands_last_without_a_rank(
    store: ArtifactStore, rmw: Rmw, monkeypatch: pytest.MonkeyPatch
):
    publish_scores(store, "many", margins(0, 0.5))
    publish_scores(store, "more", margins(1, 0.4))
    publish_scores(store, "one_left", [2.0] * 200, leaked={"test": [f"p{n}" for n in range(1, 200)]})

    *ranked, last = board(rmw, "--benchmark", "test")

    assert (last["recipe"], last["score"], last["n"]) == ("one_left", 1, 1)
    assert last["rank"] is None
    assert last["too_few_items"]
    assert last["ci_low"] < 0.5
    assert [(row["rank"], row["ranked_among"]) for row in ranked] == [(1, 2), (2, 2)]
    assert not any(row["too_few_items"] for row in ranked)
    monkeypatch.setenv("COLUMNS", "250")
    assert "too few items for a rank (1 independent)" in rmw("leaderboard").out


def test_checkpoints_that_have_few_clean_items_in_common_say_why_none_has_a_rank(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "one", margins(0, 0.5), leaked={"test": [f"p{n}" for n in range(90)]})
    publish_scores(store, "two", margins(1, 0.4), leaked={"test": [f"p{n}" for n in range(90, 180)]})

    rows = board(rmw, "--benchmark", "test")

    # Two rows are one group.
    of_each = [(row["n"], row["rank"], row["num_independent"], row["too_few_items"]) for row in rows]
    assert of_each == [(110, None, 10, True)] * 2


def test_two_checkpoints_of_one_recipe_stand_apart(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "one", margins(0, 0.0))
    publish_scores(store, "one", margins(1, 2.0))

    rows = board(rmw, "--benchmark", "test")

    assert len({row["checkpoint"] for row in rows}) == 2
    assert {row["recipe"] for row in rows} == {"one"}


def test_published_scores_stand_below_as_reference_without_interval(rmw: Rmw, project: Project):
    rows = board(rmw, "--benchmark", "rewardbench2")

    assert rows
    assert all(row["published"] and row["ci_low"] is None and row["rank"] is None for row in rows)
    assert all(0 < row["score"] < 1 and row["contamination"] == "unknown" and row["source"] for row in rows)


def test_people_read_tables(store: ArtifactStore, rmw: Rmw):
    publish_scores(store, "good", margins(1, 2.0), leaked={"test": ["p0"]})
    publish_scores(store, "nearly", margins(2, 1.9))

    answer = rmw("leaderboard")

    assert "1 (1 to 2) of 2" in answer.out
    assert "with leaked items" in answer.out
    assert "published: model card" in answer.out


def test_an_empty_home_says_how_to_fill_it(rmw: Rmw, project: Project):
    assert "rmw run RECIPE makes some" in rmw("leaderboard").err


def test_an_unknown_benchmark_is_one_sentence(rmw: Rmw, project: Project):
    answer = rmw("leaderboard", "--benchmark", "nothing")

    assert answer.code == 1
    assert "nothing is scored on benchmark 'nothing'; there are scores on: " in answer.error
