"""Outcome labels as a dialogue: RLHFlow's Mistral-ORM-Data and Deepseek-ORM-Data.

Example row, with ``solution_starts: "Step 1:"``::

    {"conversations": [{"role": "user", "content": "2 + 3? Step 1: 2 + 3 = 5. The answer is: 5"},
                       {"role": "assistant", "content": "+"}]}

The prompt is "2 + 3?", its response the rest after one space, with the label outcome 1 (``+``) or 0 (``-``). With
``step_separator`` the response has steps too, without labels of their own.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, messages
from rm_workflow.preferences.adapters._steps import question, sign, split_solution, step_ends
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"turns": "conversations"}
STEP_FIELDS = {"solution_starts": True, "step_separator": False}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its one solution as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    turns = messages(fields.required("turns"), "turns")
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        raise RowDropped("not_alternating", "one user turn and its label are expected", f"{len(turns)} turns")
    prompt, solution = split_solution(turns[0]["content"], source, "turns[0]")
    response = Response(
        slot="0",
        text=solution,
        extra=fields.extra(),
        step_ends=step_ends(solution, source.step_separator),
        labels=(Label("outcome", sign(turns[1]["content"], "turns[1]")),),
    )
    return answered(question(prompt), [response])
