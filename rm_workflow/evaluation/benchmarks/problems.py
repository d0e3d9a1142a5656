"""Problems alone: what a mixture is kept clear of (``mixture.decontaminate_against``); there is nothing to score.

One native row, of GSM8K or of MATH-500::

    {"question": "Tom has 2 apples and buys 3. How many?", "answer": "2 + 3 = 5\\n#### 5"}
    {"problem": "What is $2 + 3$?", "solution": "It is $\\\\boxed{5}$.", "answer": "5"}

The problem is the prompt. Its reference answer is no reply of the benchmark: a correct solution that a model found by
itself may well be worded alike.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

from rm_workflow.errors import UserError
from rm_workflow.evaluation import items
from rm_workflow.evaluation.items import FieldError, Item, Row, ScoredItem
from rm_workflow.keys import content_id

COLUMNS = ("question", "problem")


def aggregate(rows: Iterable[Row]) -> NoReturn:
    """Refuse: problems have no replies."""
    raise UserError("problems have no replies to score; name a benchmark with candidates, for instance best_of_n")


def headline(result: dict[str, Any]) -> None:
    """Return None: there is no score."""


def read_item(row: Row) -> Item:
    """Read a problem."""
    found = [column for column in COLUMNS if column in row]
    if not found:
        raise FieldError(
            f"neither {' nor '.join(COLUMNS)} is there (have: {', '.join(map(str, row))}); rename the field"
        )
    messages = [{"role": "user", "content": items.text(row, found[0])}]
    return Item("", messages, [], 0, {"id": row.get("unique_id") or content_id(messages)})


def scored_row(item: ScoredItem) -> NoReturn:
    """Refuse: problems have no replies."""
    aggregate([])
