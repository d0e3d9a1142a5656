import numpy as np
import pytest

from rm_workflow.evaluation.statistics import accuracy_with_interval
from rm_workflow.intervals import GroupSums, clustered_interval, wilson_interval


def interval(results: list[list[float]]) -> tuple[float, float]:
    """Return the interval of results that stand by group."""
    table = np.array([(len(group), sum(group)) for group in results])
    items, sums = table[:, 0], table[:, 1]
    return clustered_interval(
        GroupSums(
            groups=len(table),
            items=items.sum(),
            results=sums.sum(),
            items2=(items**2).sum(),
            products=(items * sums).sum(),
            results2=(sums**2).sum(),
        )
    )


@pytest.mark.parametrize(("correlated", "seed"), [(0.0, 1), (0.5, 2), (1.0, 3)])
def test_it_is_as_wide_as_the_cluster_bootstrap(correlated: float, seed: int):
    generator = np.random.default_rng(seed)
    groups = []
    for _ in range(400):
        common = float(generator.random() < 0.65)
        alone = generator.random(generator.integers(1, 7)) < 0.65
        groups.append([common if generator.random() < correlated else float(one) for one in alone])
    flat = [(result, number) for number, group in enumerate(groups) for result in group]
    drawn = accuracy_with_interval([result for result, _ in flat], [number for _, number in flat])
    low, high = interval(groups)
    assert low < drawn["score"] < high
    assert high - low == pytest.approx(drawn["ci_high"] - drawn["ci_low"], rel=0.06)


def test_groups_of_one_are_independent():
    assert interval([[1], [0], [1], [1]]) == wilson_interval(3, 4)


def test_repeating_every_item_in_its_group_adds_no_information():
    results = [[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]] * 20
    low, high = interval([group * 9 for group in results])
    alone = interval(results)
    assert (low, high) == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize("share", [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.5, 0.5, 0.5]])
def test_groups_that_all_agree_count_as_one_item_each(share: list[float]):
    groups = [share] * 7
    assert interval(groups) == pytest.approx(wilson_interval(7 * np.mean(share), 7))
    assert interval([share]) == pytest.approx(wilson_interval(np.mean(share), 1))
