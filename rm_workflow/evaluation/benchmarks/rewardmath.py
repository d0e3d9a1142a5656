"""RewardMATH: one right solution of a problem against nine wrong ones (arXiv 2410.01729, RewardMATH_official).

One row of the file holds one solution; the ten of a problem stand together::

    {"problem": "What is 7 x 8?", "eval_solution": ["7 x 8 = 56.", "So it is 56."], "solution_type": "chosen",
     "solution_reference": "model-a", "subject": "Prealgebra", "level": 1, "problem_id": 3, "id": 30}

The reply is the steps, one a line, as upstream gives them to classifiers. One scored row, ``source`` (the subject)
optional::

    {"id": 3, "score_chosen": 1.5, "score_rejected": [0.1, 0.3, 1.1, -2, 0, 0.5, 0.2, -1, 0.4]}

or, as upstream writes it, ``{"problem": ..., "solution_reference": [10 names], "score": [10 scores]}``, where the right
solution is the one of ``human_to_GPT-4``.

Rule (src/evaluation/eval.py at cde06ab): an item counts 1 if score_chosen > the highest of the nine, else 0. **A tie is
a loss**; ``accuracy_with_ties`` counts it as won. mrr = mean of 1 / rank of the right solution, **ties sorted against
it**.

Intervals: Wilson.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rm_workflow.evaluation import items, judged_pairs, statistics
from rm_workflow.evaluation.composite import score_alone
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.evaluation.judged_pairs import JudgedPair

Scores = dict[str, Any]

NUM_REJECTED = 9
OF = "one for each wrong solution"
# The reference of the right solution in what upstream writes.
RIGHT = "human_to_GPT-4"
SOLUTION_TYPES = ("chosen", "rejected")


def joined_by(row: Row) -> Any:
    """Return what the rows of one item have in common."""
    return items.item_id(row, "problem_id")


def read_joined(rows: Sequence[Row]) -> Item:
    """Read the rows of one problem in the native schema."""
    by_type = {kind: [row for row in rows if items.text(row, "solution_type") == kind] for kind in SOLUTION_TYPES}
    chosen, rejected = by_type.values()
    if (len(chosen), len(rejected), len(rows)) != (1, NUM_REJECTED, 1 + NUM_REJECTED):
        raise FieldError(
            f"problem_id {joined_by(rows[0])!r} has {len(rows)} solutions next to each other, {len(chosen)} of them "
            f"chosen and {len(rejected)} rejected; it must have 1 and {NUM_REJECTED}"
        )
    subject = items.text(chosen[0], "subject") if "subject" in chosen[0] else "all"
    return Item(
        subset=subject,
        messages=[{"role": "user", "content": items.text(chosen[0], "problem")}],
        responses=["\n".join(items.texts(row, "eval_solution")) for row in [*chosen, *rejected]],
        num_correct=1,
        meta={"id": joined_by(rows[0])},
    )


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    chosen, *rejected = item.scores
    return {"id": item.meta["id"], "source": item.subset, "score_chosen": chosen, "score_rejected": rejected}


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute strict accuracy and the mean reciprocal rank, overall and by source.

    Args:
        rows: ``{"id", "score_chosen", "score_rejected": [9]}``, or what upstream writes.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_with_ties``, ``accuracy_ties_half``,
        ``mean_margin`` (to the best wrong solution), ``mrr`` and ``mrr_interval`` (the same as a score object),
        ``subsets`` by source, ``warnings``.

    Raises:
        RowError: not nine wrong solutions, a score that is no finite number, a row given twice.
    """
    scored = items.parse_rows(rows, _parse)
    plain_rows = [{"id": item.id, "scores": [item.chosen, *item.rejected]} for item in scored]
    warnings = items.check_repeats(plain_rows, subset=None)
    pairs = [_pair(item) for item in scored]
    mrr = statistics.accuracy_with_interval(
        sorted(_reciprocal_rank(item) for item in scored),
        ties=sum(item.chosen in item.rejected for item in scored),
    )
    return {
        **judged_pairs.summarise(pairs),
        "accuracy_with_ties": float(np.mean([pair.margin >= 0 for pair in pairs])),
        "mrr": mrr["score"],
        "mrr_interval": mrr,
        "subsets": judged_pairs.by_source(pairs),
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores:
    """Return the one score of a run: strict accuracy over all problems."""
    return score_alone(result)


def parts(rows: Iterable[Row]) -> Parts:
    """Return the accuracy of all rows and of each source."""
    return judged_pairs.parts_of([_pair(item) for item in items.parse_rows(rows, _parse)])


@dataclass(frozen=True)
class _Scored:
    id: Any
    chosen: float
    rejected: list[float]
    source: str | None = None


def _parse(row: Row) -> _Scored:
    if "score_chosen" not in row and "solution_reference" in row:
        return _parse_upstream(row)
    source, _ = items.source_and_group(row)
    rejected = items.scores(row, "score_rejected", NUM_REJECTED, OF)
    return _Scored(items.item_id(row), items.score(row, "score_chosen"), rejected, source)


def _parse_upstream(row: Row) -> _Scored:
    references = items.texts(row, "solution_reference")
    scores = items.scores(row, "score", len(references), "one for each entry of solution_reference")
    chosen = [score for score, name in zip(scores, references, strict=True) if name == RIGHT]
    rejected = [score for score, name in zip(scores, references, strict=True) if name != RIGHT]
    if (len(chosen), len(rejected)) != (1, NUM_REJECTED):
        raise FieldError(
            f"field solution_reference names {RIGHT} {len(chosen)} times among {len(references)} solutions; it must be "
            f"once among {1 + NUM_REJECTED}"
        )
    return _Scored(items.text(row, "problem"), chosen[0], rejected)


def _pair(item: _Scored) -> JudgedPair:
    margin = item.chosen - max(item.rejected)
    return JudgedPair(margin, margin > 0, item.source)


def _reciprocal_rank(item: _Scored) -> float:
    return 1 / (1 + sum(score >= item.chosen for score in item.rejected))
