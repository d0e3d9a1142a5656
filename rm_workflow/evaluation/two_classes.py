"""Figures of two classes that weigh alike however many items each has, as right and wrong steps (often nine to one).

``hits`` says of each item whether the model was right about it. Items of one group (a solution, a problem) go right or
wrong together, so groups are drawn whole.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_workflow.evaluation import statistics
from rm_workflow.evaluation.composite import MeasuredScore
from rm_workflow.evaluation.figures import Statistic
from rm_workflow.evaluation.statistics import Floats

Scores = dict[str, Any]


def class_table(hits: NDArray[Any], first: NDArray[Any], groups: Sequence[Hashable]) -> Floats:
    """Return (hits in the first class, its items, hits in the second class, its items) of each group, [groups, 4]."""
    names, group_of = np.unique([str(group) for group in groups], return_inverse=True)
    of_first = np.asarray(first, dtype=bool)
    right = np.asarray(hits, dtype=np.float64)
    columns = (right * of_first, of_first, right * ~of_first, ~of_first)
    return np.stack(
        [
            np.bincount(group_of, weights=np.asarray(column, dtype=np.float64), minlength=len(names))
            for column in columns
        ],
        axis=1,
    )


def balanced(sums: Floats) -> Floats:
    """Return the mean of the shares of hits in the two classes, shape [draws, 4] -> [draws]; NaN without one class."""
    first, second = _shares(sums)
    return (first + second) / 2


def harmonic(sums: Floats) -> Floats:
    """Return the harmonic mean of the shares of hits, ProcessBench's F1: 0 where both are 0; NaN without one class."""
    first, second = _shares(sums)
    total = first + second
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = np.where(total == 0, 0.0, 2 * first * second / total)
    return found


def _shares(sums: Floats) -> tuple[Floats, Floats]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]


def measured(table: Floats, statistic: Statistic, ties: int = 0) -> MeasuredScore | None:
    """Return a figure of both classes with its interval; None where one class has no item.

    Args:
        table: what ``class_table`` returned.
        ties: items that lie exactly on the threshold, reported beside the score.
    """
    sums = table.sum(axis=0)
    if not (sums[1] and sums[3]):
        return None
    value = float(statistic(sums[None])[0])
    # In an order of their own, so that the draws do not depend on that of the file.
    draws = statistic(statistics.bootstrap_sums(table[np.lexsort(table.T)], "two classes"))
    variance = statistics.variance_of(draws, len(table))
    interval = statistics.figure_interval(value, variance, len(table))
    return MeasuredScore(statistics.score_object(value, int(sums[1] + sums[3]), interval, ties), variance, len(table))


def step_accuracy(
    right: Sequence[bool], scores: Sequence[float], groups: Sequence[Hashable], threshold: float = 0.5
) -> Scores:
    """Return how well scores tell right steps from wrong ones, balanced figures first.

    A step is taken for wrong below the threshold, as where ``-`` is likelier than ``+``.

    Args:
        right: the label of each step.
        scores: probability of each step to be right.
        groups: the solution, or the problem, of each step.

    Returns:
        ``balanced_accuracy`` (null where one class is missing), ``right_steps`` and ``wrong_steps`` (share recognised,
        null where there is none), ``accuracy`` (of all, which 9 right steps in 10 make high for a model that always
        says right), ``always_right`` (what that model gets).
    """
    labels = np.asarray(right, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    hits = (values >= threshold) == labels
    ties = int((values == threshold).sum())
    both = measured(class_table(hits, labels, groups), balanced, ties)
    return {
        "balanced_accuracy": both and both.score,
        "right_steps": _of_class(hits, labels, groups),
        "wrong_steps": _of_class(hits, ~labels, groups),
        "accuracy": _of_class(hits, np.ones_like(labels), groups),
        "always_right": float(labels.mean()),
    }


def _of_class(hits: NDArray[Any], chosen: NDArray[Any], groups: Sequence[Hashable]) -> Scores | None:
    if not chosen.any():
        return None
    own = [group for group, is_chosen in zip(groups, chosen, strict=True) if is_chosen]
    return statistics.accuracy_with_interval(hits[chosen], own)
