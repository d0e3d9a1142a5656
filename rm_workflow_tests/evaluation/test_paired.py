import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rm_workflow.evaluation import paired
from rm_workflow.evaluation.benchmarks import rewardbench2
from rm_workflow.evaluation.figures import Part, part
from rm_workflow.evaluation.paired import (
    PairedPart,
    cohens_h,
    difference_interval,
    holm,
    items_needed,
    least_difference,
    mcnemar,
    second_moment,
    swap_p_value,
)


def two_sides(seed: int = 0, n: int = 150) -> PairedPart:
    generator = np.random.default_rng(seed)
    a = generator.random(n) < 0.8
    b = np.where(generator.random(n) < 0.4, generator.random(n) < 0.65, a)
    return PairedPart(part("math", a), part("math", b))


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 9), (9, 1), (5, 5), (0, 1), (30, 12)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_items(only_a: int, only_b: int):
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n

    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)
    assert mcnemar(only_a, only_b) == pytest.approx(stats.binomtest(only_a, n).pvalue, abs=1e-12)


def test_mcnemar_without_discordant_items_says_nothing():
    assert mcnemar(0, 0) == 1.0


def test_holm_by_hand():
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_cohens_h_by_hand():
    assert cohens_h(0.5, 0.25) == pytest.approx(math.pi / 2 - math.pi / 3)
    assert cohens_h(1.01, 1.0) == 0
    assert cohens_h(0.2, 0.7) == -cohens_h(0.7, 0.2)


def test_the_paired_bootstrap_is_a_loop_over_drawn_items():
    both = two_sides()
    a, b = both.a.table[:, 0], both.b.table[:, 0]
    generator = np.random.default_rng(7)
    slow = []
    for _ in range(4000):
        drawn = generator.integers(0, len(a), len(a))
        slow.append(sum(a[i] for i in drawn) / len(a) - sum(b[i] for i in drawn) / len(a))

    low, high = difference_interval(both.variance, both.difference, len(a))

    assert (low, high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))), abs=0.012)
    assert np.std(both.draws) == pytest.approx(np.std(slow), rel=0.05)


def test_pairing_makes_the_interval_narrower_than_two_separate_ones():
    both = two_sides()
    n = len(both.a.table)
    separate = sum(side.value * (1 - side.value) / n for side in (both.a, both.b))

    assert np.var(both.draws) < 0.6 * separate


def test_groups_are_drawn_whole():
    alone = two_sides(n=120)
    groups = [f"g{i:03}" for i in np.repeat(np.arange(120), 4)]
    repeated = PairedPart(
        *(part("math", np.repeat(side.table[:, 0], 4), groups) for side in (alone.a, alone.b)),
    )

    assert np.std(repeated.draws) == pytest.approx(np.std(alone.draws), rel=0.05)


def test_swaps_of_groups_equal_all_swaps_listed():
    # nine groups of three items; what A has more of than B in each
    gains = np.array([3, 2, 1, 1, 1, 0, -1, -1, -2])
    sides = [[1] * max(gain, 0) + [0] * (3 - max(gain, 0)) for sign in (1, -1) for gain in sign * gains]
    groups = list(np.repeat(np.arange(9), 3))
    both = PairedPart(*(part("math", np.concatenate(side), groups) for side in (sides[:9], sides[9:])))
    every = [abs(gains @ signs) >= gains.sum() for signs in itertools.product((1, -1), repeat=9)]

    assert both.difference == pytest.approx(4 / 27)
    assert 0.2 < np.mean(every) < 0.6
    assert swap_p_value(both.swapped, both.difference) == pytest.approx(np.mean(every), abs=0.015)


def test_swaps_of_single_items_are_mcnemars_test():
    only_a, only_b = np.repeat([1, 0, 1], (12, 6, 40)), np.repeat([0, 1, 1], (12, 6, 40))
    both = PairedPart(part("math", only_a), part("math", only_b))

    assert both.discordant == (12, 6)
    assert swap_p_value(both.swapped, both.difference) == pytest.approx(mcnemar(12, 6), abs=0.015)


def test_the_test_is_right_5_times_in_100_where_both_are_equally_good(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paired, "SWAPS", 400)
    generator = np.random.default_rng(5)
    groups = list(np.repeat(np.arange(40), 3))
    told = []
    for _ in range(300):
        shared = np.repeat(generator.random((2, 40)), 3, axis=1)
        sides = [(0.6 * row + 0.4 * generator.random(120)) > 0.4 for row in shared]
        both = PairedPart(*(part("math", side, groups) for side in sides))
        told.append(swap_p_value(both.swapped, both.difference) < 0.05)

    assert 0.02 <= np.mean(told) <= 0.08


def test_ties_of_rewardbench_2_are_drawn_by_pairs_of_prompts():
    generator = np.random.default_rng(2)
    rows = [
        {"id": f"{kind}:{n}", "subset": "Ties", "scores": generator.normal(size=2 + k).tolist(), "num_correct": k}
        for n in range(30)
        for kind, k in (("ref", 1), ("tied", 2))
    ]
    better = [
        row | {"scores": [score + 2 * (i < row["num_correct"]) for i, score in enumerate(row["scores"])]}
        for row in rows
    ]
    both = PairedPart(*(rewardbench2.parts(side).parts["Ties"] for side in (better, rows)))

    assert both.a.table.shape == (30, 8)
    assert both.a.value == pytest.approx(rewardbench2.aggregate(better)["subsets"]["Ties"]["score"])
    assert np.isfinite(both.draws).all()
    assert swap_p_value(both.swapped, both.difference) < 0.01


def test_a_draw_without_any_tied_prompt_says_nothing_about_the_difference():
    rows = [{"id": f"ref:{n}", "subset": "Ties", "scores": [1.0, 0.0], "num_correct": 1} for n in range(9)]
    rows += [{"id": "tied:0", "subset": "Ties", "scores": [1.0, 0.9, 0.0], "num_correct": 2}]
    both = PairedPart(*(rewardbench2.parts(side).parts["Ties"] for side in (rows, rows)))

    known = both.draws[~np.isnan(both.draws)]
    assert 0 < len(known) < len(both.draws)
    assert both.variance == np.var(known) * 10 / 9


def test_draws_and_swaps_without_a_value_are_left_out_and_not_taken_for_the_difference_seen():
    def per_needed(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return sums[:, 0] / sums[:, 1]

    # Of these five rows one alone counts: a third of the draws are without it.
    needed = [[0.0, 0.0]] * 4
    a, b = (Part("needed", np.array([*needed, [value, 1.0]]), 5, per_needed) for value in (1.0, 0.0))
    both = PairedPart(a, b)

    assert np.mean(np.isnan(both.draws)) == pytest.approx(0.8**5, abs=0.03)
    assert both.variance == 0
    assert swap_p_value(np.array([0.1, np.nan, -0.5, np.nan]), 0.5) == 2 / 3
    assert swap_p_value(np.array([np.nan]), 0.5) == 1


def test_two_equal_checkpoints_get_an_interval_that_claims_no_certainty():
    same = PairedPart(part("math", np.ones(98)), part("math", np.ones(98)))

    low, high = difference_interval(same.variance, same.difference, 98)

    # one imagined discordant item, half of it for each, among 99: 1.96 sqrt(1/99 / 99)
    assert (low, high) == pytest.approx((-0.019798, 0.019798), abs=1e-6)


def test_items_needed_by_hand():
    # (1.959964 sqrt(0.2) + 0.841621 sqrt(0.19))^2 / 0.01 + 1 / 0.1 = 164.6
    assert items_needed(0.1, 0.2) == 165
    assert items_needed(-0.1, 0.2) == 165
    assert items_needed(0.02, 0.2) > 20 * items_needed(0.1, 0.2)


def test_so_many_items_do_tell_the_difference_80_times_in_100():
    counts = np.random.default_rng(0).multinomial(items_needed(0.1, 0.2), [0.15, 0.05, 0.8], 1500)

    assert np.mean([mcnemar(a, b) < 0.05 for a, b, _ in counts]) == pytest.approx(0.8, abs=0.03)


def test_the_least_difference_is_what_so_many_items_tell():
    least = least_difference(165, 0.2)

    assert least == pytest.approx(0.1, abs=0.0005)
    assert least_difference(3, 0.2) is None
    assert least_difference(165, 0.0) is None


def test_the_second_moment_of_items_is_the_share_of_discordant_ones():
    right = np.arange(400) % 2 == 0
    both = PairedPart(part("math", np.ones(400)), part("math", right))

    found = second_moment(both.variance, both.difference, 400)

    assert found == pytest.approx(0.5, rel=0.05)
