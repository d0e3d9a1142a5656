import math

import numpy as np
import pytest

from rm_workflow.evaluation.calibration import (
    brier,
    calibration,
    ece,
    ece_interval,
    first_half,
    nll,
    reliability,
    temperature,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# p of ten pairs; below 0.5 the pair is wrong and its confidence 1 - p
TEN = np.array([logit(p) for p in (0.51, 0.52, 0.48, 0.81, 0.82, 0.18, 0.83, 0.99, 0.99, 0.99)])


def test_ece_of_ten_pairs_by_hand():
    # bins are 1/30 wide: [0.5, 0.533): 0.51, 0.52, 0.52 with 2 of 3 right; [0.8, 0.833): 0.81, 0.82, 0.82, 0.83 with 3
    # of 4 right; [0.967, 1]: 0.99 three times, all right
    gaps = 3 * abs(2 / 3 - 1.55 / 3) + 4 * abs(3 / 4 - 3.28 / 4) + 3 * abs(1 - 0.99)

    assert ece(TEN) == pytest.approx(gaps / 10, abs=1e-12)
    assert [found["n"] for found in reliability(TEN)] == [3, 4, 3]
    assert reliability(TEN)[1]["confidence"] == pytest.approx(0.82)
    assert reliability(TEN)[1]["low"] == pytest.approx(0.8)


def test_brier_and_nll_of_ten_pairs_by_hand():
    p = 1 / (1 + np.exp(-TEN))

    assert brier(TEN) == pytest.approx(np.mean((1 - p) ** 2))
    assert nll(TEN) == pytest.approx(np.mean(-np.log(p)))


def test_which_side_stands_first_does_not_change_confidence():
    right, wrong = reliability(TEN), reliability(-TEN)

    assert [found["confidence"] for found in right] == pytest.approx([found["confidence"] for found in wrong])
    assert [found["accuracy"] for found in right] == pytest.approx([1 - found["accuracy"] for found in wrong])


def test_certain_pairs_fall_into_the_last_bin():
    (found,) = reliability(np.array([800.0, 40.0]))

    assert (found["high"], found["n"]) == (pytest.approx(1.0), 2)
    assert nll(np.array([-800.0])) == 800.0


def test_temperature_equals_a_grid_search():
    margins = np.random.default_rng(0).normal(2.0, 4.0, 500)
    grid = np.linspace(0.5, 20, 19_501)

    found = temperature(margins)

    assert found == pytest.approx(grid[np.argmin([nll(margins / t) for t in grid])], abs=0.001)


def test_there_is_no_best_temperature_without_a_wrong_pair_or_without_a_right_tendency():
    assert temperature(np.array([1.0, 2.0])) is None
    assert temperature(np.array([1.0, -2.0])) is None


def test_a_temperature_of_one_half_mends_the_other():
    generator = np.random.default_rng(1)
    true = generator.normal(1, 1, 4000)
    right = generator.random(4000) < 1 / (1 + np.exp(-true))
    margins = 3 * np.where(right, np.abs(true), -np.abs(true))

    found = calibration(margins, list(range(4000)))

    assert found["num_bins"] == 15
    assert found["n_fit"] + found["n_evaluated"] == 4000
    assert 1800 < found["n_fit"] < 2200
    assert found["ece_before_temperature"] > 0.08
    assert found["ece_after_temperature"] < found["ece_before_temperature"] / 2
    assert found["nll_after_temperature"] < found["nll_before_temperature"]


def test_a_group_falls_into_one_half_whatever_stands_beside_it():
    groups = [f"g{n // 3}" for n in range(300)]

    half = first_half(groups)

    assert all(len(set(half[3 * n : 3 * n + 3])) == 1 for n in range(100))
    assert list(first_half(groups[150:])) == list(half[150:])
    assert 30 < half[::3].sum() < 70


def test_one_group_gives_no_temperature():
    found = calibration([1.0, -0.5, 2.0], ["g"] * 3)

    assert found["temperature"] is None
    assert found["ece_after_temperature"] is None
    assert found["n_fit"] + found["n_evaluated"] == 3


def test_the_order_of_pairs_changes_nothing():
    generator = np.random.default_rng(2)
    margins, groups = generator.normal(0.5, 1, 200), list(generator.integers(0, 60, 200))
    order = generator.permutation(200)

    there, back = calibration(margins, groups), calibration(margins[order], [groups[i] for i in order])

    assert there["ece"] == pytest.approx(back["ece"], abs=1e-12)
    assert there["temperature"] == pytest.approx(back["temperature"], abs=1e-9)


def calibrated_margins(draw: np.random.Generator, n: int) -> np.ndarray:
    """Margins whose chosen side wins as often as they say."""
    sizes = np.abs(draw.normal(0, 1.5, n))
    return np.where(draw.random(n) < 1 / (1 + np.exp(-sizes)), sizes, -sizes)


def test_the_interval_of_a_perfectly_calibrated_model_holds_zero_though_its_ece_is_far_above():
    draw = np.random.default_rng(0)
    samples = [calibrated_margins(draw, 200) for _ in range(40)]

    assert np.mean([ece(sample) for sample in samples]) > 0.06
    assert sum(ece_interval(sample, range(200))[0] == 0 for sample in samples) >= 37


def test_the_interval_of_a_model_that_is_far_too_sure_stays_away_from_zero():
    margins = calibrated_margins(np.random.default_rng(0), 2000) * 5

    low, high = ece_interval(margins, range(2000))

    assert 0.05 < low < ece(margins) < high


def test_rows_of_one_group_tell_less_of_the_calibration_than_as_many_independent_ones():
    margins = np.repeat(calibrated_margins(np.random.default_rng(0), 100), 5)
    clustered, independent = (ece_interval(margins, groups) for groups in (np.arange(500) // 5, range(500)))

    assert clustered[1] - ece(margins) > 1.5 * (independent[1] - ece(margins))


@pytest.mark.parametrize(("p", "n"), [(0.98, 30), (0.99, 200), (0.95, 30)])
def test_the_interval_holds_zero_for_a_calibrated_model_that_is_seldom_wrong(p: float, n: int):
    draw = np.random.default_rng(0)
    samples = [np.where(draw.random(n) < p, logit(p), -logit(p)) for _ in range(40)]

    assert sum(ece_interval(sample, range(n))[0] == 0 for sample in samples) >= 37


def test_a_few_pairs_that_are_all_right_do_not_show_that_probabilities_are():
    low, high = ece_interval(np.full(20, 4.0), range(20))

    assert low == 0
    assert high > 0.05
