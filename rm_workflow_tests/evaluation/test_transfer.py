"""Correlation of benchmark scores with best-of-n over checkpoints, against loops that anybody can check."""

import itertools
import json
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.evaluation import transfer
from rm_workflow.evaluation.run_table import Run
from rm_workflow.evaluation.transfer import OVERALL, Point, picked_right, points_of, transfer_rows
from rm_workflow_tests.evaluation.stored_scores import publish_benchmark, publish_scores


def points(num: int, strength: float, seed: int = 0, num_problems: int = 60) -> list[Point]:
    """Return checkpoints whose chance to be right on a problem follows their score as strongly as asked."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(0.4, 0.9, num)
    skill = 0.6 + strength * (scores - 0.65) + (1 - abs(strength)) * generator.uniform(-0.25, 0.25, num)
    return [
        Point(
            f"run{place}",
            f"c@{place}",
            {("bench", OVERALL): score, ("bench", "Math"): generator.uniform()},
            {f"p{number}": float(generator.uniform() < chance) for number in range(num_problems)},
        )
        for place, (score, chance) in enumerate(zip(scores, skill, strict=True))
    ]


def overall(rows):
    return next(row for row in rows if row["figure"] == OVERALL)


@pytest.mark.parametrize("num", [2, 3, 12])
def test_correlations_are_those_of_scipy_ties_included(num):
    found = points(num, 0.5)
    # Two scores that differ by rounding alone are a tie.
    tied = Point("tied", "c@t", {("bench", OVERALL): found[0].scores["bench", OVERALL] + 1e-17}, found[1].gold)
    row = overall(transfer_rows([*found, tied]))
    scores = [point.scores["bench", OVERALL] for point in (*found, found[0])]
    gold = [np.mean(list(point.gold.values())) for point in (*found, tied)]
    assert row["n"] == num + 1
    assert row["problems"] == 60
    assert row["spearman"] == pytest.approx(stats.spearmanr(scores, gold).statistic)
    assert row["pearson"] == pytest.approx(stats.pearsonr(scores, gold).statistic)


def test_the_interval_is_that_of_a_bootstrap_over_checkpoints_and_problems(monkeypatch):
    monkeypatch.setattr(transfer, "DRAWS", 200)
    found = points(6, 0.7, num_problems=10)
    row = overall(transfer_rows(found))
    generator = np.random.default_rng(zlib.crc32(b"bench overall"))
    times = generator.multinomial(10, [0.1] * 10, 200)
    places = generator.integers(0, 6, (200, 6))
    drawn = {"spearman": [], "pearson": []}
    for often, checkpoints in zip(times, places, strict=True):
        chosen = [found[place] for place in checkpoints]
        problems = [f"p{number}" for number, count in enumerate(often) for _ in range(count)]
        scores = [point.scores["bench", OVERALL] for point in chosen]
        gold = [np.mean([point.gold[name] for name in problems]) for point in chosen]
        # Of a draw in which a side is the same for all there is nothing to tell.
        if len(set(scores)) > 1 and np.ptp(gold) > 1e-9:
            drawn["spearman"].append(stats.spearmanr(np.round(scores, 9), np.round(gold, 9)).statistic)
            drawn["pearson"].append(stats.pearsonr(scores, gold).statistic)
    for method, values in drawn.items():
        assert 100 < len(values) <= 200
        assert (row[f"{method}_low"], row[f"{method}_high"]) == pytest.approx(
            tuple(np.quantile(values, [0.025, 0.975]))
        )


@pytest.mark.parametrize(
    ("strength", "verdict"), [(0.97, transfer.SAME), (-0.97, transfer.OPPOSITE), (0.0, transfer.NEITHER)]
)
def test_the_verdict_says_whether_the_interval_holds_0(strength, verdict):
    assert overall(transfer_rows(points(30, strength, num_problems=400)))["verdict"] == verdict


@pytest.mark.parametrize(("num", "has_interval"), [(2, False), (3, False), (4, True), (9, True)])
def test_of_few_runs_nothing_is_concluded_however_well_they_agree(num, has_interval):
    row = overall(transfer_rows(points(num, 1.0, num_problems=400)))
    assert row["verdict"] == "too few runs to tell"
    assert (row["spearman_low"] is not None) == has_interval


def test_where_a_side_is_the_same_for_all_there_is_no_correlation():
    same = [Point(point.run, point.checkpoint, point.scores, {"p": 1.0}) for point in points(12, 0.5)]
    row = overall(transfer_rows(same))
    assert (row["spearman"], row["pearson"], row["spearman_low"]) == (None, None, None)
    assert row["verdict"] == "the same for all runs"
    assert transfer_rows([]) == []


@pytest.mark.parametrize("n", [1, 2, 3, None])
def test_what_is_picked_is_the_mean_over_all_subsets(n):
    scores, right = [0.3, 0.9, 0.9, -1.0], [True, False, True, False]
    row = {"candidates": [{"score": score, "correct": one} for score, one in zip(scores, right, strict=True)]}
    picked = []
    for subset in itertools.combinations(range(4), n or 4):
        best = max(scores[place] for place in subset)
        picked.append(np.mean([right[place] for place in subset if scores[place] == best]))
    assert picked_right(row, n, "p") == pytest.approx(np.mean(picked))


def test_scores_of_steps_count_by_their_mean():
    row = {"candidates": [{"step_scores": [0.9, 0.1], "correct": True}, {"step_scores": [0.4, 0.4], "correct": False}]}
    assert picked_right(row, None, "p") == 1.0


def test_more_candidates_than_there_are_is_one_sentence():
    with pytest.raises(UserError, match=r"sweep.transfer.n is 8, and problem p1 of the gold set has 1 candidates"):
        picked_right({"candidates": [{"score": 1.0, "correct": True}]}, 8, "p1")


def test_points_are_read_from_stored_scores_without_problems_that_leaked_to_any(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "parts", lambda run, benchmark: {"Math": {"score": 0.25}, "Ties": {"score": None}})
    store = ArtifactStore(tmp_path)
    rows = [{"prompt": f"{n} + 1?", "answers": ["It is 1.", "It is 2."], "label": [1, 0]} for n in range(4)]
    bench = publish_benchmark(store, "gold", "best_of_n", rows)
    ids = sorted(row["item_id"] for row in pq.read_table(bench.folder / "items.parquet").to_pylist())
    runs = []
    for place, leaked in enumerate(({}, {"gold": ids[:1]})):
        # The first run is right everywhere but on the second problem, the other nowhere but there.
        right = {name: (name != ids[1]) ^ bool(place) for name in ids}
        scores = {name: [1.0, 0.0] if right[name] else [0.0, 1.0] for name in ids}
        scored = publish_scores(store, "toy", [1.0 - 2 * place, 1.0], {"gold": (bench, scores)}, leaked)
        runs.append(Run(f"r{place}", {}, scored))
    unscored = Run("r2", {}, None)
    found = points_of(store, [*runs, unscored], ["test", "gold"], "gold", None)
    assert [point.run for point in found] == ["r0", "r1"]
    assert found[0].gold == {ids[1]: 0.0, ids[2]: 1.0, ids[3]: 1.0}
    assert found[1].gold == {ids[1]: 1.0, ids[2]: 0.0, ids[3]: 0.0}
    assert [point.scores["test", OVERALL] for point in found] == [1.0, 0.5]
    assert found[0].scores["test", "Math"] == 0.25
    assert not any(benchmark == "gold" for point in found for benchmark, _ in point.scores)
    assert json.dumps(transfer_rows(found))
