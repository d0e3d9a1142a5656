"""A benchmark's figures as functions of sums over groups, so that one bootstrap and one test serve every rule.

A rule offers ``parts(rows)``: its subsets as tables with one row a group (an item, a prompt, a pair of prompts), the
figure of a subset as a function of the column sums, and its composites as weighted means of subsets. Two checkpoints
on the same rows have tables with the same groups, so that a draw of groups, or a swap of some, is one line of numpy.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rm_workflow.evaluation.statistics import Floats, group_table

OVERALL = "overall"
Statistic = Callable[[Floats], Floats]


def mean_of_sums(sums: Floats) -> Floats:
    """Return (sum of results) / (number of items) for column sums, shape [draws, 2] -> [draws]."""
    mean: Floats = sums[:, 0] / sums[:, 1]
    return mean


@dataclass(frozen=True)
class Part:
    """One subset.

    Attributes:
        name: also the name of its random stream.
        table: the sums that the figure needs, one row a group, shape [groups, columns].
        statistic: the figure from column sums, shape [draws, columns] -> [draws].
        num_items: items in the subset.
        signed: whether the figure lies in [-1, 1], as a correlation does, and not in [0, 1].
    """

    name: str
    table: Floats
    num_items: int
    statistic: Statistic = mean_of_sums
    signed: bool = False

    @property
    def value(self) -> float:
        """Return the figure of the subset."""
        return float(self.statistic(self.table.sum(axis=0)[None])[0])

    @property
    def is_right_or_wrong(self) -> bool:
        """Return whether every row is one item that counts 0 or 1."""
        if self.statistic is not mean_of_sums:
            return False
        results, counts = self.table.T
        return bool(np.all(counts == 1) and np.all((results == 0) | (results == 1)))


def part(name: str, results: Sequence[float] | NDArray[Any], groups: Sequence[Hashable] | None = None) -> Part:
    """Return a subset whose figure is the mean of the results.

    Args:
        results: 0, 1 or a fraction in between for each item.
        groups: what items share; None says that they are independent.
    """
    values: Floats = np.asarray(results, dtype=np.float64)
    if groups is None:
        return Part(name, np.stack([values, np.ones_like(values)], axis=1), len(values))
    return Part(name, group_table(values, groups), len(values))


@dataclass(frozen=True)
class Parts:
    """All figures of one checkpoint on one benchmark.

    Attributes:
        parts: the tables, by name.
        subsets: names of the parts that are shown and tested each on its own.
        composites: name -> weight of each part in it.
        overall: weight of each part in the headline, or None where a part is missing.
    """

    parts: Mapping[str, Part]
    subsets: tuple[str, ...]
    overall: Mapping[str, float] | None
    composites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def weighted(weights: Mapping[str, float], values: Mapping[str, Any]) -> Any:
    """Return sum(w value) / sum(w); the values may be numbers or draws."""
    total = sum(weights.values())
    return sum(weight * values[name] for name, weight in weights.items()) / total
