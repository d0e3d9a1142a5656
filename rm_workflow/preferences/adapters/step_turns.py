"""Step labels as a dialogue: RLHFlow's Mistral-PRM-Data and Deepseek-PRM-Data.

Example row, with ``solution_starts: "Step 1:"``::

    {"conversations": [{"role": "user", "content": "2 + 3 - 1? Step 1: 2 + 3 = 5."},
                       {"role": "assistant", "content": "+"},
                       {"role": "user", "content": "Step 2: 5 - 1 = 6. The answer is: 6"},
                       {"role": "assistant", "content": "-"}]}

The steps become one response, joined by ``step_separator`` as the generator wrote them (a new line, or an empty line),
with the label hard 1 (``+``: some completion from here reaches the answer) or 0 (``-``) at the end of each step.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, messages
from rm_workflow.preferences.adapters._steps import joined, question, sign, split_solution
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"turns": "conversations"}
STEP_FIELDS = {"solution_starts": True, "step_separator": False}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its one solution as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    turns = messages(fields.required("turns"), "turns")
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise RowDropped("not_alternating", "a user turn and its label by turns are expected", f"{len(turns)} turns")
    prompt, first = split_solution(turns[0]["content"], source, "turns[0]")
    text, ends = joined([first, *(turn["content"] for turn in turns[2::2])], source.step_separator, "turns")
    labels = [
        Label("hard", sign(turn["content"], f"turns[{2 * step + 1}]"), step) for step, turn in enumerate(turns[1::2])
    ]
    response = Response(slot="0", text=text, extra=fields.extra(), step_ends=ends, labels=labels)
    return answered(question(prompt), [response])
