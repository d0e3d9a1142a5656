import numpy as np
import pytest
from scipy import stats

from benchmarks import coverage
from rm_workflow.evaluation import statistics
from rm_workflow.evaluation.composite import measured_mean, plain_mean
from rm_workflow.evaluation.statistics import (
    accuracy_with_interval,
    bootstrap_sums,
    figure_interval,
    group_table,
    independent_variance,
    mean_interval,
    mean_variance,
    signed_interval,
    stratified_variance,
    variance_of,
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


def test_the_variance_of_draws_is_that_of_independent_samples_also_for_few_rows():
    values = np.array([1.0, 0.0, 0.0, 1.0, 1.0])

    drawn = variance_of(bootstrap_sums(values[:, None], "subset")[:, 0] / 5, 5)

    assert independent_variance(values) == pytest.approx(values.var(ddof=1) / 5)
    assert drawn == pytest.approx(independent_variance(values), rel=0.06)
    assert mean_variance(np.stack([values, np.ones(5)], axis=1)) == pytest.approx(drawn, rel=0.06)


def test_a_mean_of_groups_is_drawn_once_for_its_interval_and_its_variance(monkeypatch: pytest.MonkeyPatch):
    values, groups = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), ["a", "a", "b", "b", "c", "c"]
    variance = mean_variance(group_table(values, groups))
    drawn = []

    def counted(table: np.ndarray, stream: str) -> np.ndarray:
        drawn.append(stream)
        return bootstrap_sums(table, stream)

    monkeypatch.setattr(statistics, "bootstrap_sums", counted)
    measured = measured_mean(values, groups, ties=2)

    assert drawn == ["clusters"]
    assert (measured.variance, measured.groups) == (variance, 3)
    assert measured.score == accuracy_with_interval(values, groups, ties=2)
    assert measured_mean(values).score == accuracy_with_interval(values)
    assert measured_mean(values).variance == independent_variance(values)


def test_draws_without_a_value_and_single_rows_have_no_variance():
    assert variance_of(np.array([np.nan, 1.0, 3.0]), 2) == 2.0
    assert variance_of(np.array([np.nan, np.nan]), 2) == 0
    assert variance_of(np.array([1.0, 3.0]), 1) == 0
    assert independent_variance(np.array([1.0])) == 0


def test_a_figure_without_spread_falls_back_to_wilson():
    assert figure_interval(1.0, 0.0, 30) == wilson_interval(30, 30)
    assert figure_interval(0.6, 1e-33, 30) == pytest.approx(wilson_interval(18, 30))


def test_a_figure_is_not_surer_than_its_items_allow():
    assert figure_interval(0.99, 1e-9, 30, most=60) == pytest.approx(wilson_interval(0.99 * 60, 60))


def test_an_interval_holds_its_score_even_beyond_one():
    low, high = figure_interval(1.01, 1e-9, 30)

    assert (low, high) == (wilson_interval(30, 30)[0], 1.01)


def test_a_signed_interval_is_that_of_the_scale_from_0_to_1():
    low, high = figure_interval(0.6, 0.002, 30)

    assert signed_interval(0.2, 0.008, 30) == pytest.approx((2 * low - 1, 2 * high - 1))


def variance_of_mean(results: list[list[float]], weights: list[float]) -> float:
    strata = [np.array(values) for values in results]
    return stratified_variance(
        np.array(weights),
        np.array([values.mean() for values in strata]),
        np.array([independent_variance(values) for values in strata]),
        np.array([float(len(values)) for values in strata]),
    )


def test_the_variance_of_large_strata_is_the_sum_of_theirs():
    generator = np.random.default_rng(0)
    strata = [(generator.random(2000) < p).astype(float) for p in (0.6, 0.9, 0.75)]

    found = variance_of_mean([list(values) for values in strata], [1.0, 2.0, 1.0])

    assert found == pytest.approx(
        sum(share**2 * independent_variance(values) for share, values in zip((0.25, 0.5, 0.25), strata, strict=True)),
        rel=0.01,
    )


def test_strata_take_in_imagined_items_of_the_whole():
    # whole: mean 1/2, variance 1/4, by 1 - 2 * 1/4 / 2 = 3/4: 1/3
    of_item = (2 * 1 / 3 + 1 / 4 * 2 * 2 / 4) / 4 / (1 - 2 / 16)

    assert variance_of_mean([[1.0, 1.0], [0.0, 0.0]], [1.0, 1.0]) == pytest.approx(2 * of_item / 2 / 4)


def test_one_stratum_alone_borrows_nothing():
    assert variance_of_mean([[1.0, 0.0, 1.0]], [3.0]) == pytest.approx(1 / 9)


@pytest.mark.parametrize(("strata", "size"), [(23, 1), (23, 3), (5, 6), (6, 20)])
def test_the_stratified_variance_is_right_on_average_for_strata_of_one_item_and_more(strata: int, size: int):
    generator = np.random.default_rng(strata + size)
    found = [
        variance_of_mean((generator.random((strata, size)) < 0.85).astype(float).tolist(), [1.0] * strata)
        for _ in range(600)
    ]

    assert np.mean(found) == pytest.approx(0.85 * 0.15 / size / strata, rel=0.08)


def test_group_table_sums_values_and_counts():
    assert group_table(np.array([1.0, 0.0, 1.0]), ["b", "a", "b"]).tolist() == [[0.0, 1.0], [2.0, 2.0]]


COVERAGE_KINDS = {
    "100 items": 100,
    "100 groups of 4": 100,
    "150 groups of 1 to 8": 60,
    "RewardBench 2, mean of six, 120 items": 60,
    "mean of 23 subsets of 1": 60,
    "sections of 5 subsets of 6": 60,
    "difference, 300 items, half answered anew": 60,
    "difference, mean of five subsets, 358 items": 40,
}


def test_intervals_cover_the_truth_95_times_in_100(monkeypatch: pytest.MonkeyPatch):
    """3,240 data sets: their share has a standard error of 0.4 points, that of one kind up to 1.4."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    kinds = {kind.name: kind for kind in coverage.KINDS}

    found = {
        name: np.mean([coverage.coverage(kinds[name], p, repeats) for p in coverage.TRUTHS])
        for name, repeats in COVERAGE_KINDS.items()
    }

    assert 0.935 <= np.mean(list(found.values())) <= 0.97, found
    assert min(found.values()) > 0.915, found


def test_percentiles_of_a_small_composite_would_cover_too_little(monkeypatch: pytest.MonkeyPatch):
    """Why Wilson's formula gives the bounds: six subsets of 20 items that are nearly all right."""
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    generator = np.random.default_rng(0)
    held = {"percentiles": [], "ours": []}
    for _ in range(300):
        subsets = [(generator.random(20) < 0.97).astype(float) for _ in range(6)]
        draws = np.mean(
            [bootstrap_sums(values[:, None], str(k))[:, 0] / 20 for k, values in enumerate(subsets)], axis=0
        )
        found = plain_mean([measured_mean(values) for values in subsets])
        for name, (low, high) in {
            "percentiles": np.percentile(draws, (2.5, 97.5)),
            "ours": (found["ci_low"], found["ci_high"]),
        }.items():
            held[name].append(low <= 0.97 <= high)

    assert np.mean(held["percentiles"]) < 0.91
    assert np.mean(held["ours"]) > 0.94
