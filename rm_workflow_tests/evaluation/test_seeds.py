import numpy as np
import pytest

from rm_workflow.errors import UserError
from rm_workflow.evaluation.figures import Parts, part
from rm_workflow.evaluation.seeds import SeedsComparison


def parts(results, groups) -> Parts:
    return Parts({"all": part("all", results, list(groups))}, (), {"all": 1.0})


def compare_seeds(results_a, results_b, groups):
    """Compare results of shape [seeds, items]."""
    sides = ([parts(results, groups) for results in side] for side in (results_a, results_b))
    return SeedsComparison(*sides).figure({"all": 1.0})


def draw(generator, seeds: int, items: int, mean: float, between_seeds: float) -> np.ndarray:
    p = np.clip(mean + generator.normal(0, between_seeds, (seeds, 1)), 0, 1)
    return (generator.random((seeds, items)) < p).astype(float)


def test_the_spread_of_seeds_is_told_by_hand():
    a = np.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])
    b = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0]])

    found = compare_seeds(a, b, range(4))

    assert (found["scores_a"], found["scores_b"]) == ([0.75, 0.5], [0.25, 0.25])
    assert found["difference"] == 0.375
    assert found["seed_sd_a"] == pytest.approx(0.25 / np.sqrt(2))
    # items: differences 0.5, 1, 0, 0 have variance 0.22917, / 4; with two imagined groups of 4 their mean is 0.25 and
    # their mean square (4 (0.22917 + 0.375^2) + 2) / 6; seeds: 0.03125 / 2 and 0
    items, seeds = ((4 * (0.2291666667 + 0.375**2) + 2) / 6 - 0.25**2) / 6, 0.015625
    # the variance over items is drawn, 4,000 times
    assert found["seed_share"] == pytest.approx(seeds / (items + seeds), rel=0.03)


def test_two_lucky_seeds_are_not_a_better_recipe():
    generator = np.random.default_rng(1)
    a, b = (draw(generator, 3, 2000, mean, 0.0) for mean in (0.72, 0.70))
    a[0] = generator.random(2000) < 0.80  # one seed far above its sisters

    assert compare_seeds(a, b, range(2000))["verdict"] == "not distinguishable"
    assert compare_seeds(a[[1, 1, 1]], a[[0, 0, 0]], range(2000))["verdict"] == "B better"


def test_the_interval_holds_the_difference_of_recipes_95_times_in_100():
    generator = np.random.default_rng(2)
    held = []
    for _ in range(200):
        a, b = (draw(generator, 4, 100, mean, 0.03) for mean in (0.75, 0.7))
        found = compare_seeds(a, b, range(100))
        held.append(found["ci_low"] <= 0.05 <= found["ci_high"])

    assert 0.93 <= np.mean(held) <= 0.995


def test_a_composite_weighs_its_subsets_and_counts_the_seeds_of_the_whole():
    generator = np.random.default_rng(3)
    sides = []
    for mean in (0.9, 0.6):
        drawn = [{name: draw(generator, 1, 200, mean, 0.05)[0] for name in ("chat", "maths")} for _ in range(3)]
        tables = [{name: part(name, results) for name, results in seed.items()} for seed in drawn]
        sides.append([Parts(table, ("chat", "maths"), {"chat": 1.0, "maths": 3.0}) for table in tables])

    found = SeedsComparison(*sides).figures()

    by_hand = [(table.parts["chat"].value + 3 * table.parts["maths"].value) / 4 for table in sides[0]]
    assert found["scores_a"] == pytest.approx(by_hand)
    assert found["seed_sd_a"] == pytest.approx(np.std(by_hand, ddof=1))
    assert found["n"] == 400
    assert set(found["subsets"]) == {"chat", "maths"}
    assert found["subsets"]["chat"]["p_value"] >= found["subsets"]["chat"]["p_uncorrected"]


def test_equal_results_are_not_distinguishable():
    results = np.ones((2, 5))

    found = compare_seeds(results, results, range(5))

    assert (found["p_value"], found["verdict"]) == (1.0, "not distinguishable")


def test_few_items_that_all_agree_claim_no_certainty():
    few = compare_seeds(np.zeros((2, 5)), np.ones((2, 5)), range(5))
    more = compare_seeds(np.zeros((2, 8)), np.ones((2, 8)), range(8))

    # five coins that all fall alike have p = 2 / 2^5 = 0.0625
    assert few["p_value"] == pytest.approx(0.0625, abs=0.02)
    assert few["verdict"] == "not distinguishable"
    assert few["ci_low"] == -1.0 < -0.3 < few["ci_high"] < 0.1
    assert more["verdict"] == "B better"


def test_one_seed_or_one_group_is_refused():
    with pytest.raises(UserError, match="at least two"):
        compare_seeds(np.ones((1, 5)), np.ones((3, 5)), range(5))
    with pytest.raises(UserError, match="one group"):
        compare_seeds(np.ones((2, 5)), np.zeros((2, 5)), ["g"] * 5)
