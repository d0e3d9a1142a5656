"""Any pairs: is the chosen reply scored above the rejected one?

One scored row, ``source``, ``group`` and ``id`` optional::

    {"score_chosen": 1.5, "score_rejected": -0.2, "source": "hh_helpful", "group": "prompt 17"}

Rule: an item counts 1 if score_chosen > score_rejected, else 0. **A tie is a loss**; ``accuracy_ties_half`` counts it
one half beside it. Rows of one group (one prompt) are clustered in the interval; a row without a group stands alone.
Rows of one ``id`` and source are repeats.

It has no data of its own: ``rmw aggregate pairs`` reads scored pairs, whoever made them.
"""

from collections.abc import Iterable
from typing import Any

from rm_workflow.evaluation import items, judged_pairs
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.items import Row
from rm_workflow.evaluation.judged_pairs import JudgedPair

Scores = dict[str, Any]


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute strict accuracy, overall and by source.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_ties_half``, ``mean_margin``, by source
        ``subsets``, and ``warnings``.

    Raises:
        RowError: a score that is no finite number; a source that is no text; a row with an ``id`` given twice.
    """
    listed = list(rows)
    pairs = items.parse_rows(listed, _parse)
    return {
        **judged_pairs.summarise(pairs),
        "subsets": judged_pairs.by_source(pairs),
        "warnings": items.check_repeats(listed, subset="source"),
    }


def headline(result: Scores) -> Scores:
    """Return the one score of a run: strict accuracy."""
    return result


def parts(rows: Iterable[Row]) -> Parts:
    """Return the accuracy of all pairs, in which a group may hold pairs of several sources, and of each source."""
    return judged_pairs.parts_of(items.parse_rows(rows, _parse))


def _parse(row: Row) -> JudgedPair:
    margin = items.score(row, "score_chosen") - items.score(row, "score_rejected")
    return JudgedPair(margin, margin > 0, *items.source_and_group(row))
