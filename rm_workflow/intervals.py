"""95 % intervals of shares from sums alone, so that a database can add them up; no numpy is needed."""

import math
from dataclasses import dataclass

CONFIDENCE_Z = 1.959963984540054  # the normal quantile of 0.975
NO_SPREAD = 1e-12  # a residual below this share of its terms is rounding


def wilson_interval(successes: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion.

    With z = 1.96, p = successes / n::

        (p + z^2/2n  -+  z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Args:
        successes: sum of the items' results; fractions (a 3-way tie counts 1/3) are allowed and make the interval
            wider than needed, as results in [0, 1] vary at most as 0/1 results with the same mean do.
        n: number of items, at least 1; an effective number need not be whole.
    """
    share, z2 = successes / n, CONFIDENCE_Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENCE_Z * math.sqrt(max(share * (1 - share), 0.0) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Rounding must not exclude an accuracy of exactly 0 or 1, which the formula includes.
    return (0.0 if share == 0 else centre - half), (1.0 if share == 1 else centre + half)


@dataclass(frozen=True)
class GroupSums:
    """Sums over groups g, each with n_g items whose results in [0, 1] add up to s_g.

    Attributes:
        groups: number of groups.
        items, results: sums of n_g and of s_g.
        items2, products, results2: sums of n_g^2, of s_g n_g and of s_g^2.
    """

    groups: int
    items: float
    results: float
    items2: float
    products: float
    results2: float


def clustered_interval(sums: GroupSums) -> tuple[float, float]:
    """Return the 95 % interval of results / items where the items of a group go right or wrong together.

    The variance of the ratio p = sum s_g / sum n_g, linearised (Cochran, Sampling Techniques, 1977, chapter 3)::

        G/(G-1) * sum (s_g - p n_g)^2 / (sum n_g)^2

    goes into Wilson's formula as the effective number of items p(1-p)/variance, at most the number of items. It is
    what the cluster bootstrap of ``evaluation/statistics.py`` tends to for many groups, at the cost of six sums.
    Where all groups have the same share there is no spread to measure; the number of items is then that of groups.
    """
    share = sums.results / sums.items
    if sums.groups == sums.items:
        return wilson_interval(sums.results, sums.items)
    residual = sums.results2 - 2 * share * sums.products + share**2 * sums.items2
    if residual <= NO_SPREAD * sums.items2:
        return wilson_interval(share * sums.groups, sums.groups)
    variance = sums.groups / (sums.groups - 1) * residual / sums.items**2
    effective = min(share * (1 - share) / variance, sums.items)
    return wilson_interval(share * effective, effective)
