"""The estimators of best-of-N against plain loops over all subsets."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest

from rm_workflow.evaluation import best_of_n as estimates
from rm_workflow.evaluation.best_of_n import NO_CLASS, Ballot

PROBLEMS, CANDIDATES = 12, 7
SIZES = [1, 2, 4, 7]


def drawn(seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, right or wrong, and classes of answers of which some are missing."""
    generator = np.random.default_rng(seed)
    shape = (PROBLEMS, CANDIDATES)
    classes = generator.integers(-1, 4, shape)
    return generator.integers(0, 4, shape) / 2, (classes == 1).astype(float), classes


def subsets(size: int):
    return list(combinations(range(CANDIDATES), size))


def ballot_of(classes: np.ndarray, right: int = 1) -> Ballot:
    """Classes numbered as they are first seen, as a caller numbers them."""
    seen = {number: place for place, number in enumerate(dict.fromkeys(c for c in classes.tolist() if c >= 0))}
    numbers = np.array([seen.get(number, NO_CLASS) for number in classes.tolist()])
    return Ballot(numbers, np.array([float(number == right) for number in seen]), "problem")


def winner(classes, weights) -> int:
    totals: dict[int, float] = {}
    for number, weight in zip(classes, weights, strict=True):
        if number >= 0:
            totals[number] = totals.get(number, 0.0) + weight
    most = max(totals.values(), default=0)
    return next((number for number, total in totals.items() if total >= most - 1e-12), NO_CLASS)


def test_pass_and_best_of_n_are_the_means_over_all_subsets():
    scores, correct, _ = drawn()
    passed = estimates.pass_at(correct, SIZES)
    best = estimates.expected_best(scores, correct, SIZES)
    for problem in range(PROBLEMS):
        for column, size in enumerate(SIZES):
            chosen = [list(subset) for subset in subsets(size)]
            expected = np.mean([correct[problem, subset].any() for subset in chosen])
            assert abs(passed[problem, column] - expected) < 1e-12
            picks = []
            for subset in chosen:
                own = scores[problem, subset]
                picks.append(correct[problem, subset][own == own.max()].mean())
            assert abs(best[problem, column] - np.mean(picks)) < 1e-12


def test_votes_are_the_means_over_all_subsets_where_there_are_few():
    scores, _, classes = drawn()
    for problem in range(PROBLEMS):
        ballot = ballot_of(classes[problem])
        weights = scores[problem]
        voted = estimates.vote(ballot, [None, weights], SIZES, draws=400, seed=0)
        for column, size in enumerate(SIZES):
            for row, weight in enumerate((np.ones(CANDIDATES), weights)):
                # The class seen first in a draw is that of any of its orders; all candidates have the file's.
                orders = [range(CANDIDATES)] if size == CANDIDATES else permutations(range(CANDIDATES), size)
                found = [winner(classes[problem, list(order)], weight[list(order)]) == 1 for order in orders]
                assert abs(voted[row, column] - np.mean(found)) < 1e-12


def test_drawn_votes_come_near_the_mean_over_all_subsets_and_nested_draws_are_counted_once():
    classes = np.random.default_rng(5).integers(-1, 3, CANDIDATES)
    ballot, weights = ballot_of(classes), np.linspace(0, 1, CANDIDATES)
    exact = estimates.vote(ballot, [None, weights], [2, 4, 6], draws=100, seed=0)
    sampled = np.mean(
        [estimates.vote(ballot, [None, weights], [2, 4, 6], draws=5, seed=seed) for seed in range(800)], axis=0
    )
    assert np.abs(exact - sampled).max() < 4 * 0.5 / math.sqrt(5 * 800)
    assert len(set(exact.ravel().tolist())) > 3


def test_draws_depend_on_seed_and_problem_alone():
    generator = np.random.default_rng(1)
    classes = generator.integers(0, 12, 40)
    right = np.array([1.0] + [0.0] * 11)
    one, other = (Ballot(classes, right, key) for key in ("a", "b"))
    first = estimates.vote(one, [None], [8, 16], draws=50, seed=0)
    assert np.array_equal(first, estimates.vote(one, [None], [8, 16], draws=50, seed=0))
    assert not np.array_equal(first, estimates.vote(other, [None], [8, 16], draws=50, seed=0))
    assert not np.array_equal(first, estimates.vote(one, [None], [8, 16], draws=50, seed=1))


def test_a_tie_goes_to_the_class_seen_first_and_a_draw_has_no_order():
    ballot = Ballot(np.array([0, 1, 1, 0]), np.array([0.0, 1.0]), "p")
    assert estimates.vote_prefix(ballot, None, [1, 2, 3, 4]).tolist() == [0, 0, 1, 0]
    assert estimates.vote(ballot, [None], [4], draws=400, seed=0)[0, 0] == 0
    # Two candidates that disagree are worth one, whatever stands first in the file.
    weak_first = Ballot(np.array([0, 1]), np.array([0.0, 1.0]), "p")
    three = Ballot(np.array([0, 1, 2]), np.array([0.0, 1.0, 0.0]), "p")
    assert estimates.vote(weak_first, [None], [1, 2], draws=400, seed=0)[0].tolist() == [0.5, 0]
    assert estimates.vote(three, [None], [1, 2], draws=400, seed=0)[0].tolist() == pytest.approx([1 / 3, 1 / 3])
    # By weight two classes may lead with other numbers of candidates: the first seen is rather of the larger one.
    halves = np.array([1.0, 1.0, 2.0, 0.0])
    led = Ballot(np.array([0, 0, 1, 2]), np.array([1.0, 0.0, 0.0]), "p")
    assert estimates.vote(led, [halves], [3], draws=400, seed=0)[0, 0] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)


@pytest.mark.parametrize("weights", [None, np.zeros(3)])
def test_candidates_without_answer_never_win(weights: np.ndarray | None):
    nobody = Ballot(np.array([NO_CLASS] * 3), np.array([]), "p")
    assert estimates.vote(nobody, [weights], [1, 2, 3], draws=4, seed=0).tolist() == [[0, 0, 0]]
    assert estimates.vote_prefix(nobody, weights, [1, 3]).tolist() == [0, 0]
    two = Ballot(np.array([NO_CLASS, 0, 1]), np.array([1.0, 0.0]), "p")
    assert estimates.vote(two, [weights], [1, 2, 3], draws=4, seed=0)[0].tolist() == pytest.approx([1 / 3, 1 / 2, 1])
    one = Ballot(np.array([NO_CLASS, 0, NO_CLASS]), np.array([1.0]), "p")
    assert estimates.vote(one, [weights], [1, 2, 3], draws=4, seed=0)[0].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_prefixes_are_the_first_candidates_with_ties_to_the_first():
    scores = np.array([[1.0, 3.0, 3.0, 0.0]])
    correct = np.array([[1.0, 0.0, 1.0, 1.0]])
    assert estimates.best_of_prefix(scores, correct, [1, 2, 3, 4]).tolist() == [[1, 0, 0, 0]]
    assert estimates.pass_prefix(correct[:, 1:], [1, 2]).tolist() == [[0, 1]]


def test_sizes_and_kl_of_best_of_n():
    assert estimates.subset_sizes(1) == [1]
    assert estimates.subset_sizes(1_024) == [1 << power for power in range(11)]
    assert estimates.subset_sizes(12) == [1, 2, 4, 8, 12]
    assert estimates.kl_of_best_of(1) == 0
    assert estimates.kl_of_best_of(4) == pytest.approx(math.log(4) - 0.75)


def test_estimates_stay_exact_with_1024_candidates():
    generator = np.random.default_rng(9)
    scores, correct = generator.normal(size=(3, 1_024)), (generator.random((3, 1_024)) < 0.3).astype(float)
    sizes = estimates.subset_sizes(1_024)
    best, passed = estimates.expected_best(scores, correct, sizes), estimates.pass_at(correct, sizes)
    for problem in range(3):
        ranked = correct[problem, np.argsort(scores[problem])]
        for column, size in enumerate(sizes):
            total = math.comb(1_024, size)
            chances = [math.comb(place - 1, size - 1) / total for place in range(1, 1_025)]
            assert best[problem, column] == pytest.approx(float(np.dot(chances, ranked)), abs=1e-12)
            wrong = math.comb(1_024 - int(ranked.sum()), size) / total
            assert passed[problem, column] == pytest.approx(1 - wrong, abs=1e-12)


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [("min", [0.2, 0.0, 0.9]), ("last", [0.5, 0.0, 0.9]), ("product", [0.1, 0.0, 0.9]), ("mean", [0.35, 0.0, 0.9])],
)
def test_step_scores_become_one_score_and_a_solution_without_steps_gets_the_least(aggregator, expected):
    found = estimates.aggregated(np.array([0.2, 0.5, 0.9]), np.array([2, 0, 1]), aggregator)
    assert found.tolist() == pytest.approx(expected)


def test_the_interval_is_that_of_the_problems_whatever_their_order_and_groups_are_drawn_whole():
    generator = np.random.default_rng(2)
    values = (generator.random(200) < 0.7).astype(float)
    keys = [str(place) for place in range(200)]
    low, high = estimates.Resamples(keys).interval(values)
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)
    order = generator.permutation(200)
    shuffled = estimates.Resamples([keys[place] for place in order]).interval(values[order])
    assert shuffled == pytest.approx((low, high), abs=1e-12)
    pairs = estimates.Resamples([key for key in keys for _ in range(2)]).interval(np.repeat(values, 2))
    assert pairs == pytest.approx((low, high), abs=1e-12)
