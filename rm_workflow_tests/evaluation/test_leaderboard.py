import numpy as np

from rm_workflow.evaluation.leaderboard import comparable, num_independent, ranks
from rm_workflow.evaluation.stored import StoredRows


def stored(seed: int, accuracy: float, names: range = range(300)) -> StoredRows:
    generator = np.random.default_rng(seed)
    rows = {
        f"{n:04}": {"id": n, "score_chosen": float(generator.random() < accuracy), "score_rejected": 0.5} for n in names
    }
    return StoredRows("pairs", rows)


def test_ranks_say_what_the_evidence_allows():
    found = ranks({"worst": stored(0, 0.5), "near": stored(1, 0.8), "nearer": stored(2, 0.82), "best": stored(3, 0.97)})

    assert (found["best"].rank, found["best"].low, found["best"].high) == (1, 1, 1)
    assert (found["worst"].rank, found["worst"].low, found["worst"].high) == (4, 4, 4)
    for name in ("near", "nearer"):
        assert (found[name].low, found[name].high) == (2, 3)
    assert {found["near"].rank, found["nearer"].rank} == {2, 3}
    assert found["best"].among == 4
    assert found["best"].n == 300


def test_equal_checkpoints_share_a_rank():
    found = ranks({"a": stored(0, 0.8), "b": stored(0, 0.8), "c": stored(1, 0.1)})

    assert [found[name].rank for name in "abc"] == [1, 1, 3]
    assert [(found[name].low, found[name].high) for name in "ab"] == [(1, 2), (1, 2)]


def test_one_checkpoint_is_first_of_one():
    (found,) = ranks({"a": stored(0, 0.8)}).values()

    assert (found.rank, found.low, found.high, found.among) == (1, 1, 1, 1)


def test_true_ranks_lie_in_their_intervals_for_all_at_once():
    held = []
    for seed in range(60):
        found = ranks({str(n): stored(10 * seed + n, p, range(150)) for n, p in enumerate((0.9, 0.8, 0.75, 0.7, 0.6))})
        held.append(all(found[str(n)].low <= n + 1 <= found[str(n)].high for n in range(5)))

    assert np.mean(held) >= 0.9


def test_leaked_items_decide_no_rank():
    a, b = stored(0, 0.5, range(100)), stored(1, 0.5, range(100))
    for name in list(a.rows)[:30]:
        a.rows[name]["score_chosen"] = 1.0
        b.rows[name]["score_chosen"] = 0.0

    assert ranks({"a": a, "b": b})["a"].high == 1
    without = ranks({"a": a, "b": b}, left_out=list(a.rows)[:30])["a"]
    assert (without.high, without.n) == (2, 70)


def test_a_rule_that_gives_no_score_gives_no_rank():
    rows = {"x": {"id": 1, "subset": "math-prm", "score_chosen": 1.0, "score_rejected": 0.0}}

    assert ranks({"a": StoredRows("rewardbench", rows)}) == {}
    assert ranks({"a": stored(0, 0.8)}, left_out=stored(0, 0.8).rows) == {}


def test_on_few_independent_items_nobody_has_a_rank():
    few = stored(0, 0.8, range(58))
    for number, row in enumerate(few.rows.values()):
        row["group"] = number // 2

    assert num_independent(few) == 29
    assert ranks({"a": few}) == {}
    assert ranks({"a": stored(0, 0.8, range(30))})["a"].n == 30


def test_only_checkpoints_with_the_same_items_are_ranked_together():
    sets = comparable({"a": stored(0, 0.8), "b": stored(1, 0.8, range(10)), "c": stored(2, 0.8)})

    assert sets == [["a", "c"], ["b"]]
