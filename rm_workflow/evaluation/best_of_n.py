"""Best-of-N from N scored candidates a problem: exact expectations over subsets, voting by seeded draws.

Every estimate is of the mean over problems of what n of the N candidates give, drawn without replacement:

- ``pass_at``: one of them is right, 1 - C(N - c, n) / C(N, n) with c right candidates (arXiv 2107.03374).
- ``expected_best``: the value of the candidate with the highest score. Sorted by score from the lowest, candidate i of
  N is the best of n with probability C(i - 1, n - 1) / C(N, n) (order statistics, as in tlc4418/llm_optimization);
  candidates of one score share the mean of their values, so that the order of a file decides nothing.
- ``vote``: the class of answers with the most candidates, or the most weight, is right. No closed form is known, so 400
  seeded draws stand for the subsets; where there are no more than that, and for n = 1 and n = N, all of them do.

The forms for a prefix take the first n candidates as they stand: one draw, as ``--num_n`` of published evaluators does.
A tie in the order of the file would favour whatever stands first in it: where a file lists a weak generator before a
strong one, two candidates would vote worse than one. Hence a draw has no order, and its ties are shared.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rm_workflow.evaluation.statistics import RESAMPLES, Floats, figure_interval, signed_interval, variance_of

Integers = NDArray[np.int64]

DRAWS = 400
SEED = 0
NO_CLASS = -1
# Two sums of weights that differ by less are equal but for the order in which floats were added.
SAME_WEIGHT = 1e-12
AGGREGATORS = ("min", "last", "product", "mean")


def subset_sizes(least: int) -> list[int]:
    """Return the powers of two up to the least number of candidates, and that number.

    >>> subset_sizes(6)
    [1, 2, 4, 6]
    """
    powers = [1 << power for power in range(least.bit_length())]
    return sorted({*powers, least})


def pass_at(correct: Floats, sizes: Sequence[int]) -> Floats:
    """Return the chance that one of n candidates is right, shape [problems, N] -> [problems, sizes]."""
    num = correct.shape[1]
    wrong = num - correct.sum(axis=1, keepdims=True)
    drawn = np.arange(num)
    none_right: Floats = np.cumprod(np.maximum(wrong - drawn, 0) / (num - drawn), axis=1)
    chance: Floats = 1 - none_right[:, [size - 1 for size in sizes]]
    return chance


def expected_best(scores: Floats, values: Floats, sizes: Sequence[int]) -> Floats:
    """Return the expected value of the candidate with the highest of n scores, [problems, N] -> [problems, sizes].

    Args:
        scores: by which a candidate is chosen.
        values: what counts of the chosen one: whether it is right, a gold score, or the score itself.
    """
    order = np.argsort(scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    shared = _mean_of_ties(ranked, np.take_along_axis(values, order, axis=1))
    best: Floats = shared @ _chance_to_be_best(scores.shape[1], sizes)
    return best


def _chance_to_be_best(num: int, sizes: Sequence[int]) -> Floats:
    """Return C(i - 1, n - 1) / C(N, n) for i = 1 ... N, shape [N, sizes]."""
    place = np.arange(num, 0, -1)
    columns = []
    for size in sizes:
        # From i = N, where it is n / N, each step down multiplies by (i - n) / (i - 1).
        steps = np.concatenate([[size / num], np.maximum(place[:-1] - size, 0) / np.maximum(place[:-1] - 1, 1)])
        columns.append(np.cumprod(steps)[::-1])
    return np.stack(columns, axis=1)


def _mean_of_ties(ranked: Floats, values: Floats) -> Floats:
    """Return values in which those of equal neighbouring scores of a row are replaced by their mean."""
    first = np.ones(ranked.shape, dtype=bool)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    starts = np.flatnonzero(first)
    lengths = np.diff([*starts, ranked.size])
    means = np.add.reduceat(values.ravel(), starts) / lengths
    return np.repeat(means, lengths).reshape(values.shape)


def best_of_prefix(scores: Floats, values: Floats, sizes: Sequence[int]) -> Floats:
    """Return the value of the highest score among the first n candidates, a tie to the first of them."""
    chosen = np.stack([np.argmax(scores[:, :size], axis=1) for size in sizes], axis=1)
    return np.take_along_axis(values, chosen, axis=1)


def pass_prefix(correct: Floats, sizes: Sequence[int]) -> Floats:
    """Return whether one of the first n candidates is right, shape [problems, N] -> [problems, sizes]."""
    return np.stack([correct[:, :size].max(axis=1) for size in sizes], axis=1)


def num_tied_at_top(scores: Floats) -> int:
    """Return the number of problems whose highest score several candidates have."""
    return int(((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())


@dataclass(frozen=True)
class Ballot:
    """The candidates of one problem as votes.

    Attributes:
        classes: of each candidate's answer, 0 the first that is seen, -1 for a candidate without answer.
        right: whether each class is right.
        key: of the problem; its draws are seeded by it, so that they do not depend on the other problems.
    """

    classes: Integers
    right: Floats
    key: str


def vote(ballot: Ballot, weights: Sequence[Floats | None], sizes: Sequence[int], draws: int, seed: int) -> Floats:
    """Return how often the winning class is right when n candidates vote, shape [ways of weighing, sizes].

    The class with the most votes wins, a tie goes to the one that is seen first. A draw has no order of its own, so its
    ties are settled by the mean over all orders; all N candidates stand as they are in the file. Where none of them has
    an answer nobody wins, which is wrong.

    Args:
        weights: for each way of weighing the votes one weight a candidate, at least 0; None counts candidates.
        draws: subsets drawn where there are more.
    """
    num = len(ballot.classes)
    if len(ballot.right) < 2:
        return _one_class(ballot, len(weights), sizes)
    found = np.empty((len(weights), len(sizes)))
    order = np.random.default_rng([seed, zlib.crc32(ballot.key.encode())]).permutation(num)
    shuffled = replace(ballot, classes=ballot.classes[order])
    weighed = [None if weight is None else weight[order] for weight in weights]
    totals: list[Floats] = []
    before = 0
    for column, size in enumerate(sizes):
        if size == num:
            found[:, column] = [vote_prefix(ballot, weight, [num])[0] for weight in weights]
            continue
        few = has_few_subsets(num, size, draws)
        places = all_subsets(num, size) if few else _drawn_places(num, draws, seed)[:, :size]
        if few or not totals:
            totals = [np.zeros((len(ballot.right), len(places))) for _ in weights]
            before = 0
        # The draw of a smaller size is the beginning of that of a larger one, so only what joins is counted.
        joining = places[:, before:]
        columns = _columns(shuffled, joining)
        for row, weight in enumerate(weighed):
            totals[row] += _tally(shuffled, columns, None if weight is None else weight.take(joining))
            found[row, column] = _share_right(shuffled, totals[row], places)
        before = size
        if few:
            totals = []
    return found


def vote_prefix(ballot: Ballot, weight: Floats | None, sizes: Sequence[int]) -> Floats:
    """Return whether the winning class of the first n candidates is right, a tie to the first seen, shape [sizes]."""
    found = []
    for size in sizes:
        prefix = np.arange(size)[None]
        totals = _tally(ballot, _columns(ballot, prefix), None if weight is None else weight[prefix])
        leads = _leaders(totals)[:, 0] if len(ballot.right) else ()
        first = next((number for number in ballot.classes[:size].tolist() if number >= 0 and leads[number]), NO_CLASS)
        found.append(0.0 if first == NO_CLASS else float(ballot.right[first]))
    return np.array(found)


def _one_class(ballot: Ballot, rows: int, sizes: Sequence[int]) -> Floats:
    """Return what voting gives where all answers are one: it is right unless nobody drawn has an answer."""
    if not len(ballot.right):
        return np.zeros((rows, len(sizes)))
    answered = (ballot.classes != NO_CLASS).astype(np.float64)[None]
    return np.repeat(ballot.right[0] * pass_at(answered, sizes), rows, axis=0)


def has_few_subsets(num: int, size: int, draws: int) -> bool:
    """Return whether all subsets of a size are looked at rather than some of them drawn."""
    return size == 1 or math.comb(num, size) <= draws


@lru_cache(maxsize=256)
def all_subsets(num: int, size: int) -> Integers:
    """Return the places of all subsets, each in the order of the candidates, shape [subsets, size]."""
    return np.array(list(combinations(range(num), size)), dtype=np.int64)


@lru_cache(maxsize=16)
def _drawn_places(num: int, draws: int, seed: int) -> Integers:
    """Return orders whose first n are a draw, shape [draws, N]; each problem applies them to an order of its own."""
    generator = np.random.default_rng([seed, num])
    return generator.permuted(np.tile(np.arange(num), (draws, 1)), axis=1)


def _columns(ballot: Ballot, places: Integers) -> Integers:
    """Return where the vote of each candidate of each draw is counted: by class, the one without answer first."""
    draws = len(places)
    return (ballot.classes.take(places) + 1) * draws + np.arange(draws)[:, None]


def _tally(ballot: Ballot, columns: Integers, votes: Floats | None) -> Floats:
    """Return the votes, or their weights, of each class in each draw, shape [draws, n] -> [classes, draws]."""
    shape = (len(ballot.right) + 1, len(columns))
    counted = np.bincount(columns.ravel(), None if votes is None else votes.ravel(), minlength=shape[0] * shape[1])
    return counted.reshape(shape)[1:].astype(np.float64, copy=False)


def _leaders(totals: Floats) -> NDArray[np.bool_]:
    """Return which classes have the most votes, shape [classes, draws]."""
    found: NDArray[np.bool_] = totals >= totals.max(axis=0) * (1 - SAME_WEIGHT)
    return found


def _share_right(ballot: Ballot, totals: Floats, places: Integers) -> float:
    """Return the share of draws whose winning class is right; where no candidate has an answer nobody wins.

    Args:
        totals: votes of each class in each draw, shape [classes, draws].
        places: of the candidates that vote, shape [draws, n].
    """
    leads = _leaders(totals)
    winners = np.argmax(totals, axis=0)
    right = ballot.right[winners]
    unclear = np.flatnonzero((leads.sum(axis=0) > 1) | (totals[winners, np.arange(len(places))] <= 0))
    if len(unclear):
        # In a random order the first of those who lead is each of their candidates alike.
        voters = _tally(ballot, _columns(ballot, places[unclear]), None) * leads[:, unclear]
        right[unclear] = ballot.right @ voters / np.maximum(voters.sum(axis=0), 1)
    return float(right.mean())


def aggregated(step_scores: Floats, lengths: Integers, aggregator: str) -> Floats:
    """Return one score for each solution from those of its steps; one without steps gets 0, the least a step can have.

    ``min`` as Math-Shepherd (arXiv 2312.08935), ``product`` as PRM800K (arXiv 2305.20050), ``mean`` as RLHFlow's
    evaluator, ``last`` as huggingface/search-and-learn.

    Args:
        step_scores: of all solutions, one after another.
        lengths: how many steps each solution has.

    >>> aggregated(np.array([0.5, 0.25]), np.array([2, 0]), "product").tolist()
    [0.125, 0.0]
    """
    found = np.zeros(len(lengths))
    there = lengths > 0
    ends = np.cumsum(lengths)[there]
    starts = ends - lengths[there]
    if aggregator == "last":
        found[there] = step_scores[ends - 1]
    elif there.any():
        operation = {"min": np.minimum, "product": np.multiply, "mean": np.add}[aggregator]
        found[there] = operation.reduceat(step_scores, starts)
        if aggregator == "mean":
            found[there] /= lengths[there]
    return found


def kl_of_best_of(size: int) -> float:
    """Return the KL divergence of best-of-n from the policy it draws from, log n - (n - 1) / n, in nats."""
    return math.log(size) - (size - 1) / size


class Resamples:
    """Bootstrap samples of problems, the same for every figure, so that differences are paired.

    Problems of one group (several rows on one problem) are drawn together.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        # In an order of their own, so that draws do not depend on that of the file.
        names, self._group_of = np.unique(np.array(groups), return_inverse=True)
        self.num_groups = len(names)
        generator = np.random.default_rng(zlib.crc32(b"best_of_n"))
        shares = np.full(self.num_groups, 1 / self.num_groups)
        self._times = generator.multinomial(self.num_groups, shares, size=RESAMPLES).astype(np.float64)
        sizes = np.bincount(self._group_of).astype(np.float64)
        self._drawn = self._times @ sizes

    def variance(self, values: Floats) -> float:
        """Return the variance of the mean of one value a problem."""
        sums = np.bincount(self._group_of, weights=values, minlength=self.num_groups)
        return variance_of(self._times @ sums / self._drawn, self.num_groups)

    def interval(self, values: Floats) -> tuple[float, float]:
        """Return the 95 % interval of the mean of values in [0, 1]: Wilson's bounds on the bootstrap's variance."""
        return figure_interval(float(values.mean()), self.variance(values), self.num_groups)

    def signed_interval(self, values: Floats) -> tuple[float, float]:
        """Return the 95 % interval of the mean of values in [-1, 1], as differences are."""
        return signed_interval(float(values.mean()), self.variance(values), self.num_groups)
