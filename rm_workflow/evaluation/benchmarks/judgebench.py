"""JudgeBench: which of two replies to a hard question is right? (arXiv 2410.12784, ScalerLab/JudgeBench)

One row::

    {"pair_id": "81ec", "original_id": "10646", "source": "livebench-math", "question": "What is 7 x 8?",
     "response_model": "model-a", "response_A": "56", "response_B": "54", "label": "A>B"}

One scored row, ``group`` optional::

    {"pair_id": "81ec", "source": "livebench-math", "label": "A>B", "score_A": 1.5, "score_B": -0.2}

Rule (utils/metrics.py and run_judge.py at e2c52c2, one game, as for all models that score each reply alone): the
decision is A>B if score_A > score_B, else B>A; an item counts 1 if the decision is the label. **An exact tie decides
B**: by position, it is right where B is. Categories are the beginnings of the sources' names; overall and category
weigh every row alike.

Intervals: Wilson, clustered where several pairs answer one question.
"""

from collections.abc import Iterable
from typing import Any

from rm_workflow.catalog.names import nearest
from rm_workflow.evaluation import items, judged_pairs
from rm_workflow.evaluation.composite import score_alone
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem, shown
from rm_workflow.evaluation.judged_pairs import JudgedPair

Scores = dict[str, Any]

A_WINS, B_WINS = LABELS = ("A>B", "B>A")
CATEGORIES = ("mmlu-pro", "livebench-reasoning", "livebench-math", "livecodebench")


def read_item(row: Row) -> Item:
    """Read a row of the native schema."""
    label = items.one_of(row, "label", LABELS, nearest)
    replies = [items.text(row, f"response_{side}") for side in ("A", "B")]
    source = _source(row)
    return Item(
        subset=source,
        messages=[{"role": "user", "content": items.text(row, "question")}],
        responses=replies if label == A_WINS else replies[::-1],
        num_correct=1,
        meta={
            "id": items.item_id(row, "pair_id"),
            "label": label,
            "group": f"{source} {items.item_id(row, 'original_id')}",
            **({"response_model": row["response_model"]} if "response_model" in row else {}),
        },
        label=label,
    )


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    label = item.meta["label"]
    score_a, score_b = item.scores if label == A_WINS else item.scores[::-1]
    return {
        "pair_id": item.meta["id"],
        "source": item.subset,
        "label": label,
        "score_A": score_a,
        "score_B": score_b,
        "group": item.meta["group"],
    }


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute accuracy, overall, by source and by category.

    Args:
        rows: ``{"pair_id", "source", "label", "score_A", "score_B"}``.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_ties_half``, ``mean_margin`` (right - wrong),
        ``subsets`` by source, ``sections`` by category, ``warnings``.

    Raises:
        RowError: a label or a source that is none, a score that is no finite number, a row given twice.
    """
    listed = list(rows)
    pairs = items.parse_rows(listed, _parse)
    warnings = items.check_repeats(listed, subset="source", identity="pair_id")
    sections = {name: [pair for pair in pairs if _category(pair.source) == name] for name in CATEGORIES}
    return {
        **judged_pairs.summarise(pairs),
        "subsets": judged_pairs.by_source(pairs),
        "sections": {name: judged_pairs.summarise(found) for name, found in sections.items() if found},
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores:
    """Return the one score of a run: accuracy over all pairs."""
    return score_alone(result)


def parts(rows: Iterable[Row]) -> Parts:
    """Return the accuracy of all rows and of each source."""
    return judged_pairs.parts_of(items.parse_rows(rows, _parse))


def _category(source: str | None) -> str | None:
    return next((name for name in CATEGORIES if source == name or str(source).startswith(f"{name}-")), None)


def _source(row: Row) -> str:
    found = items.text(row, "source")
    if _category(found) is None:
        raise FieldError(
            f"field source is {shown(found)}, which is none of the benchmark's; {nearest(found, CATEGORIES)}"
        )
    return found


def _parse(row: Row) -> JudgedPair:
    items.item_id(row, "pair_id")
    source = _source(row)
    label = items.one_of(row, "label", LABELS, nearest)
    score_a, score_b = items.score(row, "score_A"), items.score(row, "score_B")
    decision = A_WINS if score_a > score_b else B_WINS
    margin = score_a - score_b if label == A_WINS else score_b - score_a
    return JudgedPair(margin, decision == label, source, items.source_and_group(row)[1])
