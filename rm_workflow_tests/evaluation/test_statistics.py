import numpy as np
import pytest
from scipy import stats

from rm_workflow.evaluation import statistics
from rm_workflow.evaluation.statistics import (
    accuracy_with_interval,
    bootstrap_sums,
    composite_interval,
    group_table,
    mean_draws,
    mean_interval,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (67, 160), (28, 28), (6115, 8552)])
def test_wilson_equals_scipy(successes: int, n: int):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")

    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_all_right_is_not_certainty():
    low, high = wilson_interval(28, 28)

    assert low == pytest.approx(0.8793, abs=1e-4)
    assert high == 1.0


def test_score_object_has_the_contract_keys():
    assert accuracy_with_interval([1, 1, 0, 0], ties=1) == {
        "score": 0.5,
        "n": 4,
        "ci_low": pytest.approx(0.1500, abs=1e-4),
        "ci_high": pytest.approx(0.8500, abs=1e-4),
        "ties": 1,
    }


def test_groups_of_one_row_are_independent_items():
    values = np.array([1.0, 0.0, 1.0, 1.0])

    assert mean_interval(values, ["a", "b", "c", "d"]) == mean_interval(values)


def test_repeating_every_row_inside_its_group_adds_no_information():
    generator = np.random.default_rng(0)
    values = (generator.random(200) < 0.7).astype(float)
    alone = mean_interval(values)

    low, high = mean_interval(np.repeat(values, 4), np.repeat(np.arange(200), 4))

    assert high - low == pytest.approx(alone[1] - alone[0], rel=0.05)


def test_groups_that_all_agree_count_as_one_item_each():
    assert mean_interval(np.ones(40), ["a", "b", "c", "d"] * 10) == pytest.approx(wilson_interval(4, 4))


def test_interval_does_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(1)
    values, groups = (generator.random(300) < 0.8).astype(float), generator.integers(0, 90, 300)
    order = generator.permutation(300)

    assert mean_interval(values[order], list(groups[order])) == mean_interval(values, list(groups))


def test_bootstrap_of_sums_agrees_with_theory_and_is_seeded():
    values = np.random.default_rng(2).random((150, 1))

    draws = bootstrap_sums(values, "subset")

    assert draws.shape == (statistics.RESAMPLES, 1)
    assert draws.mean() == pytest.approx(values.sum(), rel=0.01)
    assert draws.std() == pytest.approx(values.std() * np.sqrt(150), rel=0.05)
    assert np.array_equal(draws, bootstrap_sums(values, "subset"))
    assert not np.array_equal(draws, bootstrap_sums(values, "another"))


def test_chunks_do_not_change_what_a_table_of_one_chunk_gives(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(3).random((50, 2))
    whole = bootstrap_sums(values, "subset")
    monkeypatch.setattr(statistics, "INDICES_AT_ONCE", 50 * 7)

    assert np.array_equal(bootstrap_sums(values, "subset"), whole)


def test_composite_without_spread_falls_back_to_wilson():
    assert composite_interval(np.ones(10), 1.0, 30) == wilson_interval(30, 30)


def test_an_interval_holds_its_score_even_beyond_one():
    low, high = composite_interval(np.full(10, 1.01), 1.01, 30)
    assert low < 1.01 == high


def test_strata_of_one_composite_are_drawn_independently():
    values = np.array([1.0, 0.0] * 100)

    correlation = np.corrcoef(mean_draws(values, "hep-cpp"), mean_draws(values, "hep-go"))[0, 1]

    assert abs(correlation) < 0.05


def test_group_table_sums_values_and_counts():
    assert group_table(np.array([1.0, 0.0, 1.0]), ["b", "a", "b"]).tolist() == [[0.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("rows_in_group", [1, 4])
def test_intervals_cover_the_truth_95_times_in_100(monkeypatch: pytest.MonkeyPatch, rows_in_group: int):
    """Groups whose own accuracy is beta distributed around p (correlation 0.3 inside a group)."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    generator = np.random.default_rng(4)
    covered = [_covers(generator, p, 120, rows_in_group) for p in (0.55, 0.7, 0.85, 0.93, 0.97) for _ in range(60)]

    assert 0.925 <= np.mean(covered) <= 0.98


def _covers(generator: np.random.Generator, p: float, groups: int, rows_in_group: int) -> bool:
    spread = 0.7 / 0.3
    accuracies = generator.beta(p * spread, (1 - p) * spread, groups)
    names = np.repeat(np.arange(groups), rows_in_group)
    values = (generator.random(len(names)) < accuracies[names]).astype(float)
    low, high = mean_interval(values, list(names))
    return bool(low <= p <= high)
