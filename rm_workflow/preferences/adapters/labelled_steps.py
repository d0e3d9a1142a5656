"""A list of steps and a label for each: the stepwise form of TRL (trl-lib/math_shepherd, trl-lib/prm800k).

Example rows::

    {"prompt": "2 + 3 - 1?", "completions": ["2 + 3 = 5.", "5 - 1 = 6."], "labels": [true, false]}
    {"prompt": "2 + 3 - 1?", "completions": ["2 + 3 = 5.", "5 - 1 = 6."], "labels": [1.0, 0.25]}

The steps become one response, joined by ``step_separator``. A label that is true, false or a whole number is hard,
one with a decimal point (0.25, also 1.0) is soft: a share of completions that are right. null is no label.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, text
from rm_workflow.preferences.adapters._steps import joined
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"prompt": "prompt", "system": None, "steps": "completions", "labels": "labels"}
STEP_FIELDS = {"step_separator": False}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and its one solution as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    steps, labels = fields.required("steps"), fields.required("labels")
    if not isinstance(steps, list) or not steps:
        raise RowDropped("bad_field", "a list of steps is expected", "steps")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise RowDropped("bad_field", f"one label is expected for each of {len(steps)} steps", "labels")
    texts = [text(step, f"steps[{number}]") for number, step in enumerate(steps)]
    solution, ends = joined(texts, source.step_separator, "steps")
    response = Response("0", solution, extra=fields.extra(), step_ends=ends, labels=tuple(_labels(labels)))
    return answered(prompt, [response])


def _labels(labels: list[Any]) -> Iterator[Label]:
    for step, label in enumerate(labels):
        if label is None:
            continue
        if not isinstance(label, (bool, int, float)) or not 0 <= label <= 1:
            raise RowDropped("bad_field", "a label is neither true, false nor a number from 0 to 1", f"labels[{step}]")
        yield Label("soft" if isinstance(label, float) else "hard", float(label), step)
