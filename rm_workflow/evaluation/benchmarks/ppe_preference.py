"""PPE, human preference: which of two replies did the visitor of Chatbot Arena prefer? (arXiv 2410.14872, lmarena/PPE)

One row of ``lmarena-ai/PPE-Human-Preference-V1``, more fields allowed::

    {"question_id": "q7", "model_a": "gpt-4o", "model_b": "claude-3-haiku", "winner": "model_b",
     "prompt": "Name a river.", "response_1": "A river.", "response_2": "The Danube.", "language": "English",
     "hard_prompt": false, "easy_prompt": true, "if_prompt": false, "math_prompt": false, "is_code": false}

One scored row, ``source`` (English or not) and ``tags`` optional::

    {"question_id": "q7", "winner": "model_b", "score_1": 0.5, "score_2": 1.5, "source": "english",
     "tags": ["easy_prompt"]}

Rule: an item counts 1 if the reply that was preferred scores higher, else 0. **A tie of scores is a loss**. Rows whose
``winner`` is a tie are no items: they are passed over and counted. Sections are the tags of the prompt, of which a row
may have several or none. PPE's other figures of this set rank the models that replied; they are not computed.

Intervals: Wilson, clustered where several rows answer one prompt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rm_workflow.evaluation import items, judged_pairs
from rm_workflow.evaluation.composite import score_alone
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem, shown
from rm_workflow.evaluation.judged_pairs import JudgedPair
from rm_workflow.keys import content_id

Scores = dict[str, Any]

WINNERS = ("model_a", "model_b")
TAGS = ("hard_prompt", "easy_prompt", "if_prompt", "math_prompt", "is_code")
ENGLISH, OTHER = "english", "other languages"


def is_mine(row: Row) -> bool:
    """Tell whether a row has a winner; one that says nothing of it is an item, to be refused."""
    winner = row.get("winner", WINNERS[0])
    return not (isinstance(winner, str) and winner.startswith("tie"))


def read_item(row: Row) -> Item:
    """Read a row of the native schema."""
    replies = [items.text(row, "response_1"), items.text(row, "response_2")]
    winner = _winner(row)
    prompt = items.text(row, "prompt")
    return Item(
        subset=ENGLISH if items.text(row, "language") == "English" else OTHER,
        messages=[{"role": "user", "content": prompt}],
        responses=replies if winner == WINNERS[0] else replies[::-1],
        num_correct=1,
        meta={
            "id": items.item_id(row, "question_id"),
            "winner": winner,
            "group": content_id(prompt),
            "tags": [name for name in TAGS if row.get(name)],
            **{name: row[name] for name in WINNERS if name in row},
        },
        label=winner,
    )


def scored_row(item: ScoredItem) -> dict[str, Any]:
    """Return the row of a score file, as ``aggregate`` reads it."""
    winner = item.meta["winner"]
    first, second = item.scores if winner == WINNERS[0] else item.scores[::-1]
    return {
        "question_id": item.meta["id"],
        "winner": winner,
        "score_1": first,
        "score_2": second,
        "source": item.subset,
        "tags": item.meta["tags"],
        "group": item.meta["group"],
    }


def aggregate(rows: Iterable[Row]) -> Scores:
    """Compute accuracy, overall, by language and by tag of the prompt.

    Args:
        rows: ``{"question_id", "winner", "score_1", "score_2"}``.

    Returns:
        a score object with ``accuracy`` (the same figure), ``accuracy_ties_half``, ``mean_margin``, ``subsets`` by
        source, ``sections`` by tag, ``warnings``.

    Raises:
        RowError: a winner that is none, a tag that is none, a score that is no finite number, a row given twice.
    """
    listed = list(rows)
    judged = items.parse_rows(listed, _parse)
    warnings = items.check_repeats(listed, subset=None, identity="question_id")
    by_tag = {name: [item.pair for item in judged if name in item.tags] for name in TAGS}
    pairs = [item.pair for item in judged]
    return {
        **judged_pairs.summarise(pairs),
        "subsets": judged_pairs.by_source(pairs),
        "sections": {name: judged_pairs.summarise(found) for name, found in by_tag.items() if found},
        "warnings": warnings,
    }


def headline(result: Scores) -> Scores:
    """Return the one score of a run: accuracy over all rows with a winner."""
    return score_alone(result)


def parts(rows: Iterable[Row]) -> Parts:
    """Return the accuracy of all rows and of each source."""
    return judged_pairs.parts_of([item.pair for item in items.parse_rows(rows, _parse)])


@dataclass(frozen=True)
class _Judged:
    pair: JudgedPair
    tags: Sequence[str]


def _winner(row: Row) -> str:
    found = items.text(row, "winner")
    if found not in WINNERS:
        raise FieldError(f"field winner is {shown(found)}; it is one of {' and '.join(WINNERS)}, or begins with tie")
    return found


def _parse(row: Row) -> _Judged:
    items.item_id(row, "question_id")
    winner = _winner(row)
    margin = items.score(row, "score_1") - items.score(row, "score_2")
    margin = margin if winner == WINNERS[0] else -margin
    tags = row.get("tags") or []
    if not isinstance(tags, list) or not set(tags) <= set(TAGS):
        raise FieldError(f"field tags is {shown(tags)}; it must be a list of {', '.join(TAGS)}")
    source, group = items.source_and_group(row)
    return _Judged(JudgedPair(margin, margin > 0, source, group), tags)
