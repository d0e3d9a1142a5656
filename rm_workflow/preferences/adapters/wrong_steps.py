"""A list of steps and the numbers of the wrong ones, counted from 1: PRMBench (arXiv 2501.03124).

Example row, with ``columns: {prompt: modified_question, steps: modified_process, wrong: error_steps}``::

    {"modified_question": "2 + 3 - 1?", "modified_process": ["2 + 3 = 5.", "5 - 1 = 6."], "error_steps": [2]}

The steps become one response, joined by ``step_separator``, with the label hard 0 at each wrong step and 1 at the
others. Where the source names no column for ``wrong``, all steps are right.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, text
from rm_workflow.preferences.adapters._steps import joined
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"prompt": "prompt", "system": None, "steps": "steps", "wrong": None}
STEP_FIELDS = {"step_separator": False}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its one solution as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    steps = fields.required("steps")
    if not isinstance(steps, list) or not steps:
        raise RowDropped("bad_field", "a list of steps is expected", "steps")
    texts = [text(step, f"steps[{number}]") for number, step in enumerate(steps)]
    wrong = _wrong(fields, len(texts))
    solution, ends = joined(texts, source.step_separator, "steps")
    labels = [Label("hard", 0.0 if number + 1 in wrong else 1.0, number) for number in range(len(texts))]
    return answered(prompt, [Response("0", solution, extra=fields.extra(), step_ends=ends, labels=labels)])


def _wrong(fields: Fields, num_steps: int) -> set[int]:
    if "wrong" not in fields.columns:
        return set()
    numbers = fields.required("wrong")
    if not isinstance(numbers, list) or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise RowDropped("bad_field", "a list of step numbers is expected", "wrong")
    outside = [number for number in numbers if not 1 <= number <= num_steps]
    if outside:
        raise RowDropped("bad_field", "a wrong step is none of the steps", f"wrong: step {outside[0]} of {num_steps}")
    return set(numbers)
