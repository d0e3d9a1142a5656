"""Seeds as a factor: is one recipe better than another, or was one seed luckier?

Checkpoints of one recipe that differ only by seed are a sample of what the recipe gives. Two such samples on the same
items differ for two reasons, and both belong into the error bar: which items were asked, and which seeds were drawn
(Agarwal et al. 2021, arXiv 2108.13264; Bouthillier et al. 2021, arXiv 2103.03098)::

    variance = items: clustered variance of the mean over groups of (mean of A's seeds - mean of B's seeds)
             + seeds: s_A^2 / S_A + s_B^2 / S_B        s^2 the variance of the score between seeds

Few items that all agree have no spread, and yet claim no certainty: the first term takes in two imagined groups, one on
which A alone is right and one on which B alone is (Bonett and Price 2012, J. Educ. Behav. Stat. 37, 479-488), and so do
the interval's centre and the test. The interval is t with the degrees of freedom of Welch and Satterthwaite, as the
seeds are few. What items and seeds do together is counted in both terms, so that it is rather too wide than too narrow.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation.compare import verdict
from rm_workflow.evaluation.paired import second_moment
from rm_workflow.evaluation.statistics import Floats, group_table


def compare_seeds(results_a: Floats, results_b: Floats, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Compare two recipes by several seeds of each.

    Args:
        results_a, results_b: results of every item in [0, 1], shape [seeds, items], items in one order.
        groups: what the items share; one entry an item.

    Returns:
        ``difference`` of the mean scores with ``ci_low``, ``ci_high``, ``p_value`` and ``verdict``, ``n`` items,
        ``scores_a``, ``scores_b`` by seed, ``seed_sd_a``, ``seed_sd_b``, and ``seed_share`` of the variance.

    Raises:
        UserError: a recipe has one seed only, or all items are one group: a spread of one cannot be known.
    """
    from scipy.stats import t

    if min(len(results_a), len(results_b)) < 2:
        raise UserError("seeds are compared where each recipe has at least two; train it with another seed")
    scores_a, scores_b = results_a.mean(axis=1), results_b.mean(axis=1)
    difference = float(scores_a.mean() - scores_b.mean())
    clustered, num_groups = _clustered_variance(results_a.mean(axis=0) - results_b.mean(axis=0), groups)
    imagined = num_groups + 2
    centre = difference * num_groups / imagined
    moment = (num_groups * second_moment(clustered, difference, num_groups) + 2) / imagined
    items = (moment - centre**2) / imagined
    of_a, of_b = (float(scores.var(ddof=1)) / len(scores) for scores in (scores_a, scores_b))
    terms = ((items, num_groups - 1), (of_a, len(scores_a) - 1), (of_b, len(scores_b) - 1))
    variance = sum(term for term, _ in terms)
    freedom = variance**2 / sum(term**2 / own for term, own in terms if own)
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    p_value = 2 * float(t.sf(abs(centre) / math.sqrt(variance), freedom))
    return {
        "difference": difference,
        "n": results_a.shape[1],
        "scores_a": scores_a.tolist(),
        "scores_b": scores_b.tolist(),
        "seed_sd_a": float(scores_a.std(ddof=1)),
        "seed_sd_b": float(scores_b.std(ddof=1)),
        "ci_low": min(max(centre - half, -1.0), difference),
        "ci_high": max(min(centre + half, 1.0), difference),
        "p_value": p_value,
        "verdict": verdict(difference, p_value),
        "seed_share": (of_a + of_b) / variance,
    }


def _clustered_variance(values: Floats, groups: Sequence[Hashable]) -> tuple[float, int]:
    """Return the variance of the mean of items that are drawn by groups, and the number of groups."""
    table = group_table(values, groups)
    num_groups = len(table)
    if num_groups < 2:
        raise UserError("all items belong to one group, so nothing tells how far another would differ; add items")
    residuals = table[:, 0] - values.mean() * table[:, 1]
    return num_groups / (num_groups - 1) * float(np.sum(residuals**2)) / len(values) ** 2, num_groups
