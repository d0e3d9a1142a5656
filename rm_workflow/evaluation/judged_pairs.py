"""Figures of pairs: what ``pairs`` gives, also for benchmarks with another rule for ties."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.evaluation import statistics
from rm_workflow.evaluation.figures import OVERALL, Parts, part


@dataclass(frozen=True)
class JudgedPair:
    """One item.

    Attributes:
        margin: score of the right reply - score of the (best) wrong one; 0 is an exact tie.
        right: whether the item counts.
        source: what the item is also reported under, or None.
        group: what stays together in the interval; None stands alone.
    """

    margin: float
    right: bool
    source: str | None = None
    group: Hashable = None


def summarise(pairs: Sequence[JudgedPair]) -> dict[str, Any]:
    """Return the score object of at least one pair, with ``accuracy``, ``accuracy_ties_half`` and ``mean_margin``."""
    found = margin_scores([pair.margin for pair in pairs], groups_of(pairs), [pair.right for pair in pairs])
    return {**found, "accuracy": found["score"]}


def margin_scores(
    margins: Sequence[float] | statistics.Floats, groups: Sequence[Hashable], right: Sequence[bool] | None = None
) -> dict[str, Any]:
    """Return the score object of at least one pair with ``accuracy_ties_half`` and ``mean_margin``.

    Args:
        margins: score of the right reply - score of the (best) wrong one.
        groups: what stays together in the interval, one entry a pair.
        right: whether each pair counts; None says that those with a margin above 0 do.
    """
    values = np.asarray(margins, dtype=np.float64)
    ties = int(np.sum(values == 0))
    return {
        **statistics.accuracy_with_interval(values > 0 if right is None else right, groups, ties),
        "accuracy_ties_half": float(np.mean(values > 0) + ties / (2 * len(values))),
        "mean_margin": float(np.sort(values).mean()),
    }


def parts_of(pairs: Sequence[JudgedPair]) -> Parts:
    """Return all pairs as one part, in which a group may hold pairs of several sources, and those of each source."""
    groups = groups_of(pairs)
    right = np.array([pair.right for pair in pairs], dtype=np.float64)
    found = {OVERALL: part(OVERALL, right, groups)}
    sources = sorted({pair.source for pair in pairs if pair.source is not None})
    for source in sources:
        places = [place for place, pair in enumerate(pairs) if pair.source == source]
        found[source] = part(source, right[places], [groups[place] for place in places])
    return Parts(found, tuple(sources), {OVERALL: 1})


def groups_of(pairs: Sequence[JudgedPair]) -> list[Hashable]:
    """Return what each pair clusters with; a pair without a group has one of its own."""
    return [index if pair.group is None else ("group", pair.group) for index, pair in enumerate(pairs)]


def by_source(pairs: Sequence[JudgedPair]) -> dict[str, dict[str, Any]]:
    """Return ``summarise`` of the pairs of each source, in the order of their names."""
    sources = sorted({pair.source for pair in pairs if pair.source is not None})
    return {source: summarise([pair for pair in pairs if pair.source == source]) for source in sources}
