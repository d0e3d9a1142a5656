"""Accuracies with 95 % intervals.

Two intervals are used, and which one is decided by the data, not by the caller:

- Items that are independent: Wilson's score interval (E. B. Wilson 1927, JASA 22, 209-212). It stays inside [0, 1], and
  is honest for small n and for accuracies near 1, where the textbook p +- 1.96 s collapses.
- A group (one prompt, one post) with several rows: a cluster bootstrap, which draws whole groups with replacement
  (Davison and Hinkley 1997, section 3.8; for language models arXiv 2411.00640). Rows of one group go right or wrong
  together, so that counting them as independent makes the interval too narrow. The bootstrap gives the variance, and
  Wilson's formula with the effective number of items p(1-p)/variance the bounds: by simulation (p 0.55 to 0.97, 50 to
  300 groups) that covers 94.8 % where the bootstrap's own percentiles cover 93.9 %, and 89 % at p = 0.93.

Composites (a section, an overall) are weighted means of strata that are drawn independently: their variance is the sum
of the strata's, each from its own items (``stratified_variance``), and Wilson's formula gives the bounds here too. That
is what a bootstrap within every stratum tends to; its percentiles cover 92.1 % with six subsets of 20 items, and 87 %
at p = 0.97. A stratum of one item, or of a few that are all right, has no spread of its own and borrows from the whole
(``python -m benchmarks.coverage``).

A draw, or a swap of a paired test, in which a figure has no value (0/0, as where it holds no row that the figure needs)
is left out: intervals and tests are those given that the figure has one. It is never taken for the figure seen, which
would make intervals too narrow.

Draws are seeded: the same scores give the same interval on every machine.
"""

import math
import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_workflow.intervals import wilson_interval

Floats = NDArray[np.float64]

RESAMPLES = 4000  # a bound of the interval then moves by about 0.02 of its half width between seeds
INDICES_AT_ONCE = 1 << 22  # 32 MB of indices
IMAGINED = 2  # groups of the whole composite that each stratum takes in
ROUNDING = 1e-18  # a variance below is rounding of figures that are equal


def bootstrap_sums(table: Floats, stream: str) -> Floats:
    """Return column sums of ``RESAMPLES`` tables, each made of rows of ``table`` drawn with replacement.

    Args:
        table: one row a group, one column a sum that the statistic needs, shape [groups, columns].
        stream: name of the random stream; independent strata need different names.

    Returns:
        shape [RESAMPLES, columns].
    """
    groups, resamples = len(table), RESAMPLES
    generator = np.random.default_rng(zlib.crc32(stream.encode()))
    at_once = max(1, INDICES_AT_ONCE // groups)
    parts = []
    for start in range(0, resamples, at_once):
        rows = generator.integers(0, groups, (min(at_once, resamples - start), groups))
        parts.append(np.stack([column[rows].sum(axis=1) for column in table.T], axis=1))
    return np.concatenate(parts)


def variance_of(draws: Floats, groups: int) -> float:
    """Return the variance of a figure from bootstrap draws of ``groups`` rows, with G - 1 degrees of freedom.

    Draws without a value (0/0) are left out, as everywhere here. One row alone has no spread.
    """
    known = draws[~np.isnan(draws)]
    return float(np.var(known)) * groups / (groups - 1) if groups > 1 and len(known) else 0.0


def group_table(values: Floats, groups: Sequence[Hashable]) -> Floats:
    """Return one row (sum of values, number of values) a group, shape [groups, 2], whatever the order of the rows."""
    _, index = np.unique([str(group) for group in groups], return_inverse=True)
    return np.stack([np.bincount(index, weights=values), np.bincount(index).astype(np.float64)], axis=1)


def mean_interval(values: Floats, groups: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """Return the 95 % interval of the mean of results in [0, 1], clustered where a group has more than one row."""
    return mean_with_variance(values, groups)[0]


def mean_with_variance(
    values: Floats, groups: Sequence[Hashable] | None = None
) -> tuple[tuple[float, float], float, int]:
    """Return ``mean_interval``, the variance behind it, and the number of independent items, or groups of items."""
    n = len(values)
    table = None if groups is None else group_table(values, groups)
    if table is None or len(table) == n:
        return wilson_interval(float(values.sum()), n), independent_variance(values), n
    variance = mean_variance(table)
    effective = _effective(float(table[:, 0].sum() / n), variance, len(table), n)
    return wilson_interval(float(values.mean()) * effective, effective), variance, len(table)


def any_mean_interval(values: Floats, groups: Sequence[Hashable]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of any numbers, clustered by group, or None where there is one group only.

    The bounds are Student's with G - 1 degrees of freedom, the variance that of a cluster bootstrap over the G groups.
    """
    from scipy.stats import t

    table = group_table(values, groups)
    if len(table) == 1:
        return None
    mean = float(values.mean())
    half = float(t.ppf(0.975, len(table) - 1)) * math.sqrt(mean_variance(table))
    return mean - half, mean + half


def _effective(share: float, variance: float, groups: int, most: float) -> float:
    """Return the number of independent items that tell as much as a figure does, at most ``most``.

    Where every group agrees (all right or all wrong) there is no spread to measure; it is then the number of groups.
    """
    spread = share * (1 - share)
    return min(spread / variance, most) if variance > ROUNDING and spread > 0 else float(groups)


def mean_variance(table: Floats) -> float:
    """Return the variance of the mean of groups of items by a cluster bootstrap.

    Args:
        table: (sum of values, number of values) of each group, shape [groups, 2].
    """
    # In an order of their own, so that the draws do not depend on that of the file.
    sums = bootstrap_sums(table[np.lexsort(table.T)], "clusters")
    return variance_of(sums[:, 0] / sums[:, 1], len(table))


def independent_variance(values: Floats) -> float:
    """Return the variance of the mean of independent items, 0 for a single one."""
    return float(np.var(np.sort(values), ddof=1)) / len(values) if len(values) > 1 else 0.0


def stratified_variance(weights: Floats, values: Floats, variances: Floats, groups: Floats) -> float:
    """Return the variance of sum(w value) / sum(w) over strata that are drawn independently.

    A stratum of one group, or of few that agree, measures no spread of its own. So each stratum takes in K = 2 imagined
    groups that are drawn from the whole composite: pseudo-Bayes (Bishop, Fienberg and Holland 1975, Discrete
    Multivariate Analysis, chapter 12) with as many items as Agresti and Caffo (2000, Am. Stat. 54, 280-288) add to each
    of two samples. With G groups of variance s^2 around m in the stratum, and S^2 around M in the whole, a group has::

        (G s^2 + K S^2 + (m - M)^2 G K / (G + K)) / (G + K) / (1 - G / (G + K)^2)

    The divisor makes it unbiased where all strata are alike; where they differ it is rather too large. With many groups
    the imagined ones are lost.

    Args:
        weights: shape [strata], as all others.
        values: the figure of each stratum.
        variances: of these figures, with G - 1 degrees of freedom; 0 where G is 1.
        groups: G, the independent items, or groups of items, of each stratum.
    """
    shares = weights / weights.sum()
    spreads, centre = variances * (groups - 1), shares @ values
    known = 1 - shares**2 @ (1 / groups)
    whole = shares @ (spreads + (values - centre) ** 2) / known if known > 0 else 0.0
    taken = groups + IMAGINED
    of_group = (groups * spreads + IMAGINED * (whole + (values - centre) ** 2 * groups / taken)) / taken
    unbiased = of_group / (1 - groups / taken**2)
    # A single stratum has nothing to borrow.
    return float(shares**2 @ (unbiased / groups)) if len(values) > 1 else float(variances[0])


def figure_interval(score: float, variance: float, groups: int, most: float = math.inf) -> tuple[float, float]:
    """Return the interval of a figure: Wilson's with as many independent items as its variance speaks of.

    In a composite they may be more than there are, where subsets differ much, as each is drawn on its own. Where there
    is no spread, or the score is beyond 0 or 1, which Ties may be, they are the groups. The interval holds the score.

    Args:
        groups: independent items, or groups of items, behind the figure.
        most: what the items can tell at most.
    """
    share = min(max(score, 0.0), 1.0)
    effective = _effective(share, variance, groups, most)
    low, high = wilson_interval(share * effective, effective)
    return min(low, score), max(high, score)


def signed_interval(score: float, variance: float, groups: int, most: float = math.inf) -> tuple[float, float]:
    """Return ``figure_interval`` of a figure from -1 to 1, on the scale from 0 to 1."""
    low, high = figure_interval((1 + score) / 2, variance / 4, groups, most)
    return min(2 * low - 1, score), max(2 * high - 1, score)


def score_object(score: float, n: int, interval: tuple[float, float], ties: int) -> dict[str, Any]:
    """Return the JSON shape that every score has."""
    return {"score": float(score), "n": int(n), "ci_low": interval[0], "ci_high": interval[1], "ties": int(ties)}


def accuracy_with_interval(
    results: Sequence[float] | NDArray[Any], groups: Sequence[Hashable] | None = None, ties: int = 0
) -> dict[str, Any]:
    """Return the mean of results with its 95 % interval as a score object.

    Args:
        results: 0, 1 or a fraction in between for each item, at least one.
        groups: what the items share (a prompt, a post); None says that they are independent.
        ties: number of items that an exact tie decided, reported beside the score.

    >>> accuracy_with_interval([1, 1, 1, 0])["score"]
    0.75
    """
    values: Floats = np.asarray(results, dtype=np.float64)
    return score_object(values.mean(), len(values), mean_interval(values, groups), ties)
