"""Two checkpoints on the rows of one benchmark: every figure with its paired test and a verdict in words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation.figures import Parts, weighted
from rm_workflow.evaluation.items import Row
from rm_workflow.evaluation.paired import (
    ALPHA,
    POWER,
    PairedPart,
    cohens_h,
    difference_interval,
    holm,
    items_needed,
    least_difference,
    least_p_value,
    mcnemar,
    second_moment,
    swap_p_value,
)
from rm_workflow.evaluation.statistics import stratified_variance

A_BETTER, B_BETTER, NEITHER = "A better", "B better", "not distinguishable"
MCNEMAR, SWAPS = "McNemar, exact", "swaps of groups"
OVERALL, ITEMS = "overall", "all items"

Figures = dict[str, Any]
Weights = Mapping[str, float]


class RuleWithParts(Protocol):
    """A rule whose figures can be drawn anew."""

    def parts(self, rows: Iterable[Row]) -> Parts:
        """Return the parts of all figures from the rows of a score file."""


def parts_of(scoring: str, rows: Iterable[Row]) -> Parts:
    """Return the parts of a score file's rows under a rule.

    Raises:
        UserError: the rule offers no parts, so its figures have no paired test.
    """
    found = rules.rule(scoring)
    if not hasattr(found, "parts"):
        raise UserError(f"scores of {scoring!r} cannot be compared item by item; compare their intervals instead")
    return cast(RuleWithParts, found).parts(rows)


class Comparison:
    """Two checkpoints on the same rows of one benchmark.

    Args:
        a, b: from the same items in the same order.

    Raises:
        UserError: the items lie in other subsets or groups for A than for B.
    """

    def __init__(self, a: Parts, b: Parts) -> None:
        check_same_items(a, b)
        self.a, self.b = a, b
        self._parts = {name: PairedPart(part_a, b.parts[name]) for name, part_a in a.parts.items()}

    def p_value(self, weights: Weights) -> tuple[float, str]:
        """Return the two-sided p-value of a figure, uncorrected, and the name of its test."""
        discordant = self._discordant(weights)
        shares = [weight / self._parts[name].a.num_items for name, weight in weights.items()]
        if discordant and min(shares) == max(shares):
            return mcnemar(*discordant), MCNEMAR
        swapped = weighted(weights, {name: self._parts[name].swapped for name in weights})
        return swap_p_value(swapped, self.difference(weights)), SWAPS

    def difference(self, weights: Weights) -> float:
        """Return a figure of A minus that of B."""
        return float(weighted(weights, {name: self._parts[name].difference for name in weights}))

    def interval(self, weights: Weights) -> tuple[float, float]:
        """Return the 95 % interval of a figure's difference."""
        groups = sum(len(self._parts[name].a.table) for name in weights)
        return difference_interval(self._variance(weights), self.difference(weights), groups, self._reach(weights))

    def _reach(self, weights: Weights) -> float:
        """Return the largest difference that a figure can have."""
        return 2.0 if any(self._parts[name].a.signed for name in weights) else 1.0

    def _variance(self, weights: Weights) -> float:
        parts = [self._parts[name] for name in weights]
        return stratified_variance(
            np.array(list(weights.values())),
            np.array([part.difference for part in parts]),
            np.array([part.variance for part in parts]),
            np.array([float(len(part.a.table)) for part in parts]),
        )

    def _num_items(self, weights: Weights) -> int:
        return sum(self._parts[name].a.num_items for name in weights)

    def figure(self, weights: Weights, power_for: float | None = None) -> Figures:
        """Return one figure: both scores, their difference with interval and test, effect size and power.

        Args:
            weights: the parts that it is the weighted mean of.
            power_for: also tell how many items would tell this difference.
        """
        score_a, score_b = (
            float(weighted(weights, {name: side.parts[name].value for name in weights})) for side in (self.a, self.b)
        )
        n, difference = self._num_items(weights), self.difference(weights)
        low, high = self.interval(weights)
        p_value, test = self.p_value(weights)
        moment, reach = second_moment(self._variance(weights), difference, n), self._reach(weights)
        differing = sum(self._parts[name].num_differing for name in weights)
        return {
            "difference": difference,
            "ci_low": low,
            "ci_high": high,
            "p_value": p_value,
            "n": n,
            "verdict": verdict(difference, p_value),
            "score_a": score_a,
            "score_b": score_b,
            "test": test,
            "least_p_value": least_p_value(differing),
            "cohens_h": cohens_h(score_a, score_b) if reach == 1 else None,
            **_effect_on_items(self._discordant(weights)),
            "power": _power(n, moment, power_for, reach),
        }

    def _discordant(self, weights: Weights) -> tuple[int, int] | None:
        """Return the items that A alone and that B alone gets right, or None where items are not right or wrong."""
        parts = [self._parts[name] for name in weights]
        if not all(part.is_right_or_wrong for part in parts):
            return None
        only_a, only_b = (sum(part.discordant[side] for part in parts) for side in (0, 1))
        return only_a, only_b

    def figures(self, power_for: float | None = None) -> Figures:
        """Return the overall with ``sections`` and ``subsets``, each of these two corrected by Holm among its own.

        Where the rule's overall lacks a part, the mean over all items takes its place, and ``of`` says so.

        Raises:
            UserError: the rule gives no figure at all.
        """
        return every_figure(self.a, self.figure, lambda weights: self.figure(weights, power_for))


def check_same_items(a: Parts, b: Parts) -> None:
    """Refuse figures of other items.

    Raises:
        UserError: the items lie in other subsets or groups for A than for B.
    """
    for name, of_a in a.parts.items():
        of_b = b.parts.get(name)
        if of_b is None or of_a.table.shape != of_b.table.shape or of_a.num_items != of_b.num_items:
            raise UserError(f"the items of {name} lie in other groups for A than for B; score both on the same file")


def every_figure(
    parts: Parts, figure: Callable[[Weights], Figures], overall: Callable[[Weights], Figures] | None = None
) -> Figures:
    """Return the overall with ``sections`` and ``subsets``, each of these two corrected by Holm among its own.

    Args:
        parts: of either side; its weights are used.
        figure: a figure from the weights of its parts.
        overall: the same for the overall, where that is told at more length.

    Raises:
        UserError: the rule gives no figure at all.
    """
    subsets = corrected({name: figure({name: 1.0}) for name in parts.subsets})
    sections = corrected({name: figure(weights) for name, weights in parts.composites.items()})
    pooled = {name: float(parts.parts[name].num_items) for name in parts.subsets}
    if not (parts.overall or pooled):
        raise UserError("the items that both have give no figure under the benchmark's rule; score more of them")
    told = (overall or figure)(parts.overall or pooled)
    return {**told, "of": OVERALL if parts.overall else ITEMS, "sections": sections, "subsets": subsets}


def corrected(figures: Mapping[str, Figures]) -> dict[str, Figures]:
    """Return several figures with p-values, and verdicts by them, corrected by Holm."""
    adjusted = holm([figure["p_value"] for figure in figures.values()])
    return {
        name: {
            **figure,
            "p_value": p_value,
            "p_uncorrected": figure["p_value"],
            "verdict": verdict(figure["difference"], p_value),
        }
        for (name, figure), p_value in zip(figures.items(), adjusted, strict=True)
    }


def verdict(difference: float, p_value: float) -> str:
    """Return the verdict at the 5 % level in words."""
    if p_value >= ALPHA or difference == 0:
        return NEITHER
    return A_BETTER if difference > 0 else B_BETTER


def _effect_on_items(discordant: tuple[int, int] | None) -> Figures:
    """Return the discordant items, McNemar's test of them, and their odds ratio with one half added to each."""
    if discordant is None:
        return {"only_a": None, "only_b": None, "odds_ratio": None, "p_mcnemar": None}
    only_a, only_b = discordant
    odds_ratio = (only_a + 0.5) / (only_b + 0.5)
    return {"only_a": only_a, "only_b": only_b, "odds_ratio": odds_ratio, "p_mcnemar": mcnemar(only_a, only_b)}


def _power(n: int, moment: float, difference: float | None, reach: float) -> Figures:
    """Return what n items tell; the formulas are those of differences up to 1, so others are taken as shares of it."""
    least = least_difference(n, moment / reach**2)
    told = {"power": POWER, "second_moment": moment, "least_difference": None if least is None else reach * least}
    if difference is None:
        return told
    needed = items_needed(difference / reach, moment / reach**2) if moment > 0 else None
    return {**told, "difference": difference, "items_needed": needed}
