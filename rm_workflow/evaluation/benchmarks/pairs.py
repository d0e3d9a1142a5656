"""Any pairs: is the chosen reply scored above the rejected one?

One scored row, ``source`` and ``group`` optional::

    {"score_chosen": 1.5, "score_rejected": -0.2, "source": "hh_helpful", "group": "prompt 17"}

Rule: an item counts 1 if score_chosen > score_rejected, else 0. **A tie is a loss**; ``accuracy_ties_half`` counts it
one half beside it. Rows of one group (one prompt) are clustered in the interval; a row without a group stands alone.

It has no data of its own: ``rmw aggregate pairs`` reads scored pairs, whoever made them.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from rm_workflow.evaluation import items, statistics
from rm_workflow.evaluation.items import FieldError, Row

Scores = dict[str, Any]
ScoredPair = tuple[float, str | None, Hashable]


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute strict accuracy, overall and by source.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_ties_half``, ``mean_margin`` and, by source,
        ``subsets``.

    Raises:
        RowError: a score that is no finite number; a source that is no text.
    """
    pairs = items.parse_rows(list(rows), _parse)
    groups = [index if group is None else ("group", group) for index, (_, _, group) in enumerate(pairs)]
    sources = sorted({source for _, source, _ in pairs if source is not None})
    subsets = {}
    for source in sources:
        chosen = [index for index, pair in enumerate(pairs) if pair[1] == source]
        subsets[source] = margin_scores([pairs[i][0] for i in chosen], [groups[i] for i in chosen])
    whole = margin_scores([margin for margin, _, _ in pairs], groups)
    return {**whole, "accuracy": whole["score"], "subsets": subsets}


def headline(result: Scores) -> Scores:
    """Return the one score of a run: strict accuracy."""
    return result


def margin_scores(margins: Sequence[float] | statistics.Floats, groups: Sequence[Hashable]) -> Scores:
    """Return the score object of pairs with the ties-half accuracy and the mean margin beside it.

    Args:
        margins: score_chosen - score_rejected of each pair, at least one.
        groups: what stays together in the interval, one entry a pair.
    """
    values = np.asarray(margins, dtype=np.float64)
    ties = int(np.sum(values == 0))
    return {
        **statistics.accuracy_with_interval(values > 0, groups, ties),
        "accuracy_ties_half": float(np.mean(values > 0) + ties / (2 * len(values))),
        "mean_margin": float(values.mean()),
    }


def _parse(row: Row) -> ScoredPair:
    source = row.get("source")
    if source is not None and not isinstance(source, str):
        raise FieldError(f"field source is {source!r}; it must be text")
    group = row.get("group")
    if isinstance(group, list | dict):
        raise FieldError("field group is a list or an object; it must be text or a number")
    return items.score(row, "score_chosen") - items.score(row, "score_rejected"), source, group
