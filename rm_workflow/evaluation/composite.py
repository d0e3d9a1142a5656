"""Scores with the variance behind them, so that a mean of several has an interval too."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.evaluation import statistics

SCORE_KEYS = ("score", "n", "ci_low", "ci_high", "ties")


@dataclass(frozen=True)
class MeasuredScore:
    """A score object and how much it would vary.

    Attributes:
        score: ``{"score", "n", "ci_low", "ci_high", "ties"}``.
        variance: of the score, with ``groups`` - 1 degrees of freedom; 0 for one group.
        groups: independent items, or groups of items.
    """

    score: dict[str, Any]
    variance: float
    groups: int


def measured_mean(results: statistics.Floats, groups: Sequence[Hashable] | None = None, ties: int = 0) -> MeasuredScore:
    """Return the mean of results with its interval and variance, clustered by group where groups are given.

    Args:
        results: 0, 1 or a fraction in between for each item, at least one.
        groups: what the items share; None says that they are independent.
        ties: number of items that an exact tie decided.
    """
    interval, variance, num_groups = statistics.mean_with_variance(results, groups)
    score = statistics.score_object(float(results.mean()), len(results), interval, ties)
    return MeasuredScore(score, variance, num_groups)


def weighted_mean(parts: Sequence[tuple[float, MeasuredScore]]) -> dict[str, Any]:
    """Return sum(w part) / sum(w) of parts that are drawn independently, as a score object; n and ties are sums."""
    weights = np.array([weight for weight, _ in parts], dtype=np.float64)
    values = np.array([part.score["score"] for _, part in parts])
    variances = np.array([part.variance for _, part in parts])
    groups = np.array([part.groups for _, part in parts], dtype=np.float64)
    score = float(weights @ values / weights.sum())
    variance = statistics.stratified_variance(weights, values, variances, groups)
    n, ties = (sum(part.score[key] for _, part in parts) for key in ("n", "ties"))
    interval = statistics.figure_interval(score, variance, int(groups.sum()))
    return statistics.score_object(score, n, interval, ties)


def plain_mean(parts: Sequence[MeasuredScore]) -> dict[str, Any]:
    """Return the unweighted mean of parts that are drawn independently, as a score object; n and ties are sums."""
    return weighted_mean([(1.0, part) for part in parts])


def score_alone(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the score object of a result that is one, without what stands beside it."""
    return {name: result[name] for name in SCORE_KEYS}
