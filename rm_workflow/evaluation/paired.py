"""Two checkpoints on the same items: difference with interval, exact test, effect size and power.

- Interval: paired bootstrap. Groups of items are drawn with replacement, the same ones for both checkpoints, each
  subset from its own stream (arXiv 2411.00640, section 4; Davison and Hinkley 1997). The draws give the variance (that
  of a composite by ``stratified_variance``), and the bounds are those of Bonett and Price (2012, J. Educ. Behav. Stat.
  37, 479-488), who add imagined items on which A or B alone is right; one half of an item for each is enough: with 100
  items of which 1 to 5 differ, percentiles cover 87.8 %, this 98.7 %; with many items both cover 95 %
  (``python -m benchmarks.coverage``).
- Test: if both were equally good, swapping what they did on any one group would change nothing. Where items are right
  or wrong and independent this is McNemar's exact test (binomial on the items that one alone gets right; McNemar 1947,
  Psychometrika 12, 153-157). Elsewhere (groups with several rows, shared points, composites) groups are swapped by
  seeded coins and the differences as large as the one seen are counted.
- Several subsets: Holm's step-down correction (Holm 1979, Scand. J. Statist. 6, 65-70).
- Effect size: Cohen's h of the two scores (Cohen 1988, chapter 6: 0.2 small, 0.5 medium), and the odds ratio of the
  discordant items.
- Power: Connor's formula for McNemar's test (Connor 1987, Biometrics 43, 207-211), for whole items; with groups and
  composites the share of discordant items becomes the second moment that the bootstrap measures.

Nothing here is adjusted to an outcome; the same scores give the same figures on every machine.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rm_workflow.evaluation.figures import Part
from rm_workflow.evaluation.statistics import Floats, bootstrap_sums, variance_of
from rm_workflow.intervals import CONFIDENCE_Z

SWAPS = 10_000
SWAPS_AT_ONCE = 1 << 22  # coins
ALPHA = 0.05
POWER = 0.8
ROUNDING = 1e-12  # sums of the same results in another order differ by less


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        only_a: items that A alone gets right.
        only_b: items that B alone gets right.
    """
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def cohens_h(score_a: float, score_b: float) -> float:
    """Return 2 asin(sqrt(a)) - 2 asin(sqrt(b)); scores outside of [0, 1], which Ties may have, count as its ends."""
    angles = [2 * math.asin(math.sqrt(min(max(score, 0.0), 1.0))) for score in (score_a, score_b)]
    return angles[0] - angles[1]


@dataclass(frozen=True)
class PairedPart:
    """One subset of two checkpoints on the same rows."""

    a: Part
    b: Part

    @property
    def difference(self) -> float:
        """Return the figure of A minus that of B."""
        return self.a.value - self.b.value

    @property
    def is_right_or_wrong(self) -> bool:
        """Return whether every row is one item that each checkpoint gets right or wrong."""
        return self.a.is_right_or_wrong and self.b.is_right_or_wrong

    @property
    def num_differing(self) -> int:
        """Return the number of groups on which the two differ."""
        return int(np.sum(np.any(self.a.table != self.b.table, axis=1)))

    @property
    def discordant(self) -> tuple[int, int]:
        """Return the items that A alone and that B alone gets right."""
        a, b = self.a.table[:, 0], self.b.table[:, 0]
        return int(np.sum(a > b)), int(np.sum(b > a))

    @cached_property
    def draws(self) -> Floats:
        """Return the difference in each bootstrap draw, shape [RESAMPLES]; NaN where a draw has no value."""
        columns = self.a.table.shape[1]
        sums = bootstrap_sums(np.hstack([self.a.table, self.b.table]), self.a.name)
        return self.a.statistic(sums[:, :columns]) - self.b.statistic(sums[:, columns:])

    @cached_property
    def variance(self) -> float:
        """Return the variance of the difference, with one degree of freedom less than groups; 0 for one group."""
        return variance_of(self.draws, len(self.a.table))

    @cached_property
    def swapped(self) -> Floats:
        """Return the difference after each swap of some groups between A and B, shape [SWAPS]; NaN without a value."""
        gains = self.b.table - self.a.table
        gains = gains[np.any(gains != 0, axis=1)]
        moved = np.concatenate(list(_swap_sums(gains, f"swaps {self.a.name}")))
        sums_a, sums_b = self.a.table.sum(axis=0) + moved, self.b.table.sum(axis=0) - moved
        return self.a.statistic(sums_a) - self.b.statistic(sums_b)


def _swap_sums(gains: Floats, stream: str) -> Iterator[Floats]:
    """Yield, for batches of swaps, what A gains by them, shape [swaps, columns]."""
    generator = np.random.default_rng(zlib.crc32(stream.encode()))
    at_once = max(1, SWAPS_AT_ONCE // max(1, len(gains)))
    for start in range(0, SWAPS, at_once):
        coins = generator.integers(0, 2, (min(at_once, SWAPS - start), len(gains)))
        yield coins.astype(np.float64) @ gains


def least_p_value(num_differing: int) -> float:
    """Return the least p-value that an exact two-sided test can have where so many groups differ."""
    return min(1.0, 2 * 0.5**num_differing)


def swap_p_value(swapped: Floats, difference: float) -> float:
    """Return the two-sided p-value: the share of swaps, the one seen among them, with a difference as large.

    Swaps without a value (0/0) are left out, see ``statistics``.
    """
    known = swapped[~np.isnan(swapped)]
    as_large = int(np.sum(np.abs(known) >= abs(difference) - ROUNDING))
    return (as_large + 1) / (len(known) + 1)


def difference_interval(variance: float, difference: float, groups: int, reach: float = 1.0) -> tuple[float, float]:
    """Return the 95 % interval of a difference; it holds the difference.

    With v the variance of the difference, G groups, and one half of an imagined group added for A and one for B::

        N = G + 1      m = G d / N      psi = (G (G v + d^2) + 1) / N      m -+ 1.96 sqrt((psi - m^2) / N)

    Two checkpoints that no item tells apart thus get an interval that claims no certainty.

    Args:
        groups: G, the number of rows that were drawn in all.
        reach: the largest difference that there can be, which an imagined group has: 2 between correlations.
    """
    imagined = groups + 1
    centre = difference * groups / imagined
    moment = (groups * second_moment(variance, difference, groups) + reach**2) / imagined
    half = CONFIDENCE_Z * math.sqrt((moment - centre**2) / imagined)
    return min(max(centre - half, -reach), difference), max(min(centre + half, reach), difference)


def second_moment(variance: float, difference: float, n: int) -> float:
    """Return the mean square of an item's difference as if items were independent.

    For independent items that are right or wrong it is the share of discordant ones, but for the noise of draws.
    """
    return n * variance + difference**2


def items_needed(difference: float, moment: float, power: float = POWER) -> int:
    """Return how many items of the same kind would tell a difference at the 5 % level, two-sided.

    With psi the share of discordant items (``second_moment``) and d the difference::

        n = (1.96 sqrt(psi) + z_power sqrt(psi - d^2))^2 / d^2 + 1 / |d|

    psi is at least |d|, as no fewer items can differ; the last term is for whole items, which the exact test counts.

    Args:
        difference: between the two scores, not 0.
        moment: what ``second_moment`` returns.
        power: share of repetitions in which the difference would be told.
    """
    from scipy.special import ndtri

    z_power, size = float(ndtri(power)), abs(difference)
    psi = max(moment, size)
    return math.ceil(((CONFIDENCE_Z * math.sqrt(psi) + z_power * math.sqrt(psi - size**2)) / size) ** 2 + 1 / size)


def least_difference(n: int, moment: float, power: float = POWER) -> float | None:
    """Return the least difference that ``n`` items tell, or None where not even a difference of 1 would be told."""
    low, high = 0.0, 1.0
    if moment <= 0 or items_needed(high, moment, power) > n:
        return None
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if items_needed(middle, moment, power) <= n else (middle, high)
    return high
