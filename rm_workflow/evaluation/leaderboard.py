"""Ranks with their uncertainty.

The checkpoints of one benchmark are compared in pairs on the items that all of them have, and all pairs are corrected
together by Holm. A checkpoint's rank then lies, for all checkpoints at once with 95 %, between 1 + (those that are
surely better) and N - (those that are surely worse) (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic
Studies 91, 476-518). Swaps of groups resolve p-values down to 1e-4, which tells up to 32 checkpoints apart.

A score of few items is high or low by chance: on fewer than ``FEWEST_ITEMS`` independent ones nobody has a rank.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from rm_workflow.evaluation.compare import NEITHER, Comparison, parts_of, verdict
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.paired import holm
from rm_workflow.evaluation.progress import Progress
from rm_workflow.evaluation.stored import StoredRows

# Below this an interval is wider than 0.3 and the normal theory behind p-values is poor.
FEWEST_ITEMS = 30


@dataclass(frozen=True)
class Rank:
    """Where a checkpoint stands among those that were compared.

    Attributes:
        rank: 1 + the number of checkpoints with a higher score.
        low, high: the ranks that the evidence allows.
        among: number of checkpoints compared.
        n: items that all of them have.
    """

    rank: int
    low: int
    high: int
    among: int
    n: int


def comparable(entries: Mapping[str, StoredRows]) -> list[list[str]]:
    """Return the checkpoints of one benchmark in sets that have the same items, largest first.

    The test splits of two mixtures, or two revisions of a benchmark, have other items: ranks across would mean nothing.
    """
    sets: dict[tuple[str, frozenset[str]], list[str]] = {}
    for name, stored in entries.items():
        sets.setdefault((stored.scoring, frozenset(stored.rows)), []).append(name)
    return sorted(sets.values(), key=lambda names: (-len(names), names))


def num_independent(stored: StoredRows) -> int:
    """Return how many independent items rows are: those of one group count once."""
    return len({name if row.get("group") is None else ("group", row["group"]) for name, row in stored.rows.items()})


def ranks(
    entries: Mapping[str, StoredRows], left_out: Iterable[str] = (), progress: Progress | None = None
) -> dict[str, Rank]:
    """Return the rank of each checkpoint; empty where the rule gives no score or too few items are left.

    Args:
        entries: checkpoints with the same items.
        left_out: items that are leaked to any of them.
        progress: called with (pairs compared, pairs).
    """
    kept = {name: stored.without(left_out) for name, stored in entries.items()}
    if not kept or num_independent(next(iter(kept.values()))) < FEWEST_ITEMS:
        return {}
    items = sorted(next(iter(kept.values())).rows)
    parts = {name: parts_of(stored.scoring, stored.only(items)) for name, stored in kept.items()}
    if any(found.overall is None for found in parts.values()):
        return {}
    higher: Counter[str] = Counter()
    surely_better: Counter[str] = Counter()
    surely_worse: Counter[str] = Counter()
    for (first, second), difference, p_value in _tested(parts, progress):
        winner, loser = (first, second) if difference > 0 else (second, first)
        higher[loser] += difference != 0
        surely_better[loser] += verdict(difference, p_value) != NEITHER
        surely_worse[winner] += verdict(difference, p_value) != NEITHER
    return {
        name: Rank(1 + higher[name], 1 + surely_better[name], len(kept) - surely_worse[name], len(kept), len(items))
        for name in kept
    }


def _tested(parts: Mapping[str, Parts], progress: Progress | None) -> Iterator[tuple[tuple[str, str], float, float]]:
    """Yield each pair of checkpoints with the difference of their scores and its p-value, corrected over all pairs."""
    pairs = list(combinations(sorted(parts), 2))
    differences, p_values = [], []
    for done, (first, second) in enumerate(pairs, start=1):
        compared = Comparison(parts[first], parts[second])
        overall = parts[first].overall or {}
        differences.append(compared.difference(overall))
        p_values.append(compared.p_value(overall)[0])
        if progress:
            progress(done, len(pairs))
    yield from zip(pairs, differences, holm(p_values), strict=True)
