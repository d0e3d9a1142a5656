"""Seeds as a factor: is one recipe better than another, or was one seed luckier?

Checkpoints of one recipe that differ only by seed are a sample of what the recipe gives. Two such samples on the same
items differ for two reasons, and both belong into the error bar: which items were asked, and which seeds were drawn
(Agarwal et al. 2021, arXiv 2108.13264; Bouthillier et al. 2021, arXiv 2103.03098)::

    variance = items: variance of (mean of A's seeds - mean of B's seeds) over bootstrap draws of groups, the same
               groups for every seed, within each subset
             + seeds: s_A^2 / S_A + s_B^2 / S_B        s^2 the variance of the score between seeds

Few items that all agree have no spread, and yet claim no certainty: the first term takes in two imagined groups, one on
which A alone is right and one on which B alone is (Bonett and Price 2012, J. Educ. Behav. Stat. 37, 479-488), and so do
the interval's centre and the test. The interval is t with the degrees of freedom of Welch and Satterthwaite, as the
seeds are few. What items and seeds do together is counted in both terms, so that it is rather too wide than too narrow.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation.compare import Figures, Weights, check_same_items, every_figure, verdict
from rm_workflow.evaluation.figures import Part, Parts, weighted
from rm_workflow.evaluation.paired import second_moment
from rm_workflow.evaluation.statistics import Floats, bootstrap_sums, stratified_variance, variance_of

IMAGINED = 2  # groups on which A alone, and B alone, is right


class SeedsComparison:
    """Two recipes by several seeds of each, on the same rows of one benchmark.

    Args:
        a, b: the figures of each seed, from the same items in the same order.

    Raises:
        UserError: a recipe has one seed only, or the items lie in other subsets or groups for one of them.
    """

    def __init__(self, a: Sequence[Parts], b: Sequence[Parts]) -> None:
        if min(len(a), len(b)) < 2:
            raise UserError("seeds are compared where each recipe has at least two; train it with another seed")
        for other in (*a[1:], *b):
            check_same_items(a[0], other)
        self.first = a[0]
        self._parts = {
            name: SeededPart(*([seed.parts[name] for seed in side] for side in (a, b))) for name in a[0].parts
        }

    def figures(self) -> Figures:
        """Return the overall with ``sections`` and ``subsets``, each of these two corrected by Holm among its own."""
        return every_figure(self.first, self.figure)

    def figure(self, weights: Weights) -> Figures:
        """Return one figure: ``difference`` of the means over seeds with interval and test.

        Args:
            weights: the parts that it is the weighted mean of.

        Returns:
            ``difference``, ``ci_low``, ``ci_high``, ``p_value``, ``verdict``, ``n`` items, ``scores_a``, ``scores_b``
            by seed, ``seed_sd_a``, ``seed_sd_b``, and ``seed_share`` of the variance.

        Raises:
            UserError: all items are one group: a spread of one cannot be known.
        """
        from scipy.stats import t

        parts = [self._parts[name] for name in weights]
        num_groups = sum(part.num_groups for part in parts)
        if num_groups < 2:
            raise UserError("all items belong to one group, so nothing tells how far another would differ; add items")
        scores_a, scores_b = (
            np.array(weighted(weights, {name: self._parts[name].scores[side] for name in weights})) for side in (0, 1)
        )
        difference = float(scores_a.mean() - scores_b.mean())
        centre, items = _with_imagined_groups(difference, self._variance(weights), num_groups)
        of_a, of_b = (float(scores.var(ddof=1)) / len(scores) for scores in (scores_a, scores_b))
        terms = ((items, num_groups - 1), (of_a, len(scores_a) - 1), (of_b, len(scores_b) - 1))
        variance = sum(term for term, _ in terms)
        freedom = variance**2 / sum(term**2 / own for term, own in terms if own)
        half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
        p_value = 2 * float(t.sf(abs(centre) / math.sqrt(variance), freedom))
        reach = 2.0 if any(part.signed for part in parts) else 1.0
        return {
            "difference": difference,
            "ci_low": min(max(centre - half, -reach), difference),
            "ci_high": max(min(centre + half, reach), difference),
            "p_value": p_value,
            "n": sum(part.num_items for part in parts),
            "verdict": verdict(difference, p_value),
            "scores_a": scores_a.tolist(),
            "scores_b": scores_b.tolist(),
            "seed_sd_a": float(scores_a.std(ddof=1)),
            "seed_sd_b": float(scores_b.std(ddof=1)),
            "seed_share": (of_a + of_b) / variance,
        }

    def _variance(self, weights: Weights) -> float:
        parts = [self._parts[name] for name in weights]
        return stratified_variance(
            np.array(list(weights.values())),
            np.array([part.difference for part in parts]),
            np.array([part.variance for part in parts]),
            np.array([float(part.num_groups) for part in parts]),
        )


class SeededPart:
    """One subset of several seeds of two recipes on the same rows."""

    def __init__(self, a: Sequence[Part], b: Sequence[Part]) -> None:
        self._sides = (a, b)
        self.num_groups, self.num_items, self.signed = len(a[0].table), a[0].num_items, a[0].signed

    @property
    def scores(self) -> tuple[Floats, Floats]:
        """Return the figure of each seed of A and of B."""
        a, b = (np.array([part.value for part in side]) for side in self._sides)
        return a, b

    @property
    def difference(self) -> float:
        """Return the mean over A's seeds minus that over B's."""
        a, b = self.scores
        return float(a.mean() - b.mean())

    @cached_property
    def variance(self) -> float:
        """Return the variance of the difference over draws of groups, the same ones for every seed."""
        parts = [*self._sides[0], *self._sides[1]]
        sums = bootstrap_sums(np.hstack([part.table for part in parts]), parts[0].name)
        drawn = np.split(sums, len(parts), axis=1)
        figures = np.array([part.statistic(own) for part, own in zip(parts, drawn, strict=True)])
        num_a = len(self._sides[0])
        return variance_of(figures[:num_a].mean(axis=0) - figures[num_a:].mean(axis=0), self.num_groups)


def _with_imagined_groups(difference: float, variance: float, num_groups: int) -> tuple[float, float]:
    """Return the difference and its variance with a group added that A alone gets right, and one that B alone does."""
    imagined = num_groups + IMAGINED
    centre = difference * num_groups / imagined
    moment = (num_groups * second_moment(variance, difference, num_groups) + IMAGINED) / imagined
    return centre, (moment - centre**2) / imagined
