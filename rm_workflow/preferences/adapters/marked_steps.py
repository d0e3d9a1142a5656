"""A solution with a mark after each step, and the same text with labels for marks: Math-Shepherd (arXiv 2312.08935).

Example row, with ``solution_starts: "Step 1:"`` and ``step_separator: ки`` (two Cyrillic letters)::

    {"input": "2 + 3? Step 1: 2 + 3 = 5. ки\\nStep 2: The answer is: 6 ки",
     "label": "2 + 3? Step 1: 2 + 3 = 5. +\\nStep 2: The answer is: 6 -", "task": "GSM8K"}

Signs stand in formulas too, so that the labels are those at the places of the marks: the text between two marks must be
the same in both columns. The response keeps its marks; a step ends with its mark, where its label hard 1 or 0 stands.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, text
from rm_workflow.preferences.adapters._steps import question, sign, split_solution, step_ends
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"marked": "input", "labelled": "label"}
STEP_FIELDS = {"solution_starts": True, "step_separator": True}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its one solution as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    marked, labelled = (text(fields.required(name), name) for name in ("marked", "labelled"))
    mark = source.step_separator or ""
    prompt, solution = split_solution(marked, source, "marked")
    if mark in prompt:
        raise RowDropped("bad_field", "a mark stands before the solution", "marked")
    values = _values(marked.split(mark), labelled)
    if any(not piece.strip() for piece in solution.split(mark)[:-1]):
        raise RowDropped("empty_message", "a step is only white space", "marked")
    labels = [Label("hard", value, step) for step, value in enumerate(values)]
    response = Response("0", solution, extra=fields.extra(), step_ends=step_ends(solution, mark), labels=labels)
    return answered(question(prompt), [response])


def _values(pieces: list[str], labelled: str) -> list[float]:
    """Return the label that ``labelled`` has after each piece but the last."""
    if len(pieces) == 1:
        raise RowDropped("bad_field", "no step has a mark", "marked")
    values, place = [], 0
    for number, piece in enumerate(pieces):
        if not labelled.startswith(piece, place):
            raise RowDropped("bad_field", "the two texts differ outside the marks", f"labelled, step {number}")
        place += len(piece)
        if number < len(pieces) - 1:
            values.append(sign(labelled[place : place + 1], f"labelled, step {number}"))
            place += 1
    if place != len(labelled):
        raise RowDropped("bad_field", "the two texts differ outside the marks", "labelled, end")
    return values
