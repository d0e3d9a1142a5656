"""A question and its worked reference answer: GSM8K (arXiv 2110.14168).

Example row::

    {"question": "Tom has 2 apples and buys 3. How many?", "answer": "He has 2 + 3 = <<2+3=5>>5 apples.\\n#### 5"}

The answer is the response in slot ``reference``, without a label: nobody judged it. What follows ``####`` is carried
along as ``final_answer``, or the text of a column of its own (``columns: {final: answer}``, as in MATH-500). With
``step_separator`` (a new line) each line before it is a step.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, text
from rm_workflow.preferences.adapters._steps import step_ends
from rm_workflow.preferences.tables import Example, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"prompt": "question", "system": None, "answer": "answer", "final": None}
STEP_FIELDS = {"step_separator": False}
FINAL_ANSWER = "####"


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its reference answer."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    answer = text(fields.required("answer"), "answer")
    steps, final = _parts(answer, fields)
    extra = {**fields.extra(), "final_answer": final.strip()}
    ends = step_ends(steps, source.step_separator)
    return answered(prompt, [Response("reference", answer, extra=extra, step_ends=ends)])


def _parts(answer: str, fields: Fields) -> tuple[str, str]:
    """Return what has the steps, and the final answer."""
    if "final" in fields.columns:
        final = text(fields.required("final"), "final")
        if not final.strip():
            raise RowDropped("bad_field", "the final answer is only white space", "final")
        return answer, final
    steps, mark, final = answer.rpartition(FINAL_ANSWER)
    if not mark or not final.strip():
        raise RowDropped("bad_field", f"no final answer follows {FINAL_ANSWER}", "answer")
    return steps, final
