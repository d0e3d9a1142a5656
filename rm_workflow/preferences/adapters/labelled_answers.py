"""Many answers to one question, each right or wrong: RLHFlow's best-of-N sets (1,024 answers a question).

Example row::

    {"prompt": "2 + 3?", "answers": ["Step 1: 2 + 3 = 5. ки\\nThe answer is: 5 ки", "The answer is: 6 ки"],
     "label": [1, 0]}

Each answer is a response in slot "0", "1", ... with the label outcome 1 or 0. With ``step_separator`` (``ки`` in
Mistral's answers, an empty line in Deepseek's) the answers have steps; the text stays as it is. An empty answer stays
too, as one of so many: mixtures drop it alone, under ``empty_message`` or, of trajectories, ``no_step``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, text
from rm_workflow.preferences.adapters._steps import step_ends
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"prompt": "prompt", "system": None, "answers": "answers", "labels": "label"}
STEP_FIELDS = {"step_separator": False}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its answers."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    answers, labels = fields.required("answers"), fields.required("labels")
    if not isinstance(answers, list) or not answers:
        raise RowDropped("bad_field", "a list of answers is expected", "answers")
    if not isinstance(labels, list) or len(labels) != len(answers):
        raise RowDropped("bad_field", f"one label is expected for each of {len(answers)} answers", "labels")
    extra = fields.extra()
    responses = []
    for number, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        solution = text(answer, f"answers[{number}]")
        outcome = Label("outcome", _outcome(label, f"labels[{number}]"))
        ends = step_ends(solution, source.step_separator)
        responses.append(Response(str(number), solution, extra=extra, step_ends=ends, labels=(outcome,)))
    written = [response for response in responses if response.text.strip()]
    if not written:
        raise RowDropped("empty_message", "all answers are only white space", "answers")
    return replace(answered(prompt, written), responses=responses)


def _outcome(label: Any, where: str) -> float:
    if not isinstance(label, (bool, int, float)) or label not in (0, 1):
        raise RowDropped("bad_field", "a label is neither 0 nor 1", where)
    return float(label)
