"""Starts of solutions, each with the share of its completions that were right: MATH-APS (arXiv 2410.09671).

Example row::

    {"question": "2 + 3?", "final_answer": "5", "reasoning_steps": [
        {"solution_prefix": "2 + 3?", "mc_value": 0.75},
        {"solution_prefix": "2 + 3?\\n\\n2 + 3 = 5.", "mc_value": 1.0}]}

Each start of a solution is a response (slot = its place in the list), the text after the question, with one label:
soft, its share, at its last step. Its steps end where other listed starts of it end. The start without a word of
solution, the question alone, is no response.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, answered, number, text
from rm_workflow.preferences.adapters._steps import question
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"prompt": "question", "prefixes": "reasoning_steps"}
STEP_FIELDS: Mapping[str, bool] = {}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the question and the starts of its solutions."""
    fields = Fields(row, source, COLUMNS)
    prompt = text(fields.required("prompt"), "prompt")
    listed = fields.required("prefixes")
    if not isinstance(listed, list) or not listed:
        raise RowDropped("bad_field", "a list of starts is expected", "prefixes")
    starts = [_start(entry, prompt, f"prefixes[{place}]") for place, entry in enumerate(listed)]
    ends = {solution.rstrip() for solution, _ in starts if solution.strip()}
    if not ends:
        raise RowDropped("bad_field", "no start holds a word of solution", "prefixes")
    responses = []
    for place, (solution, value) in enumerate(starts):
        if solution.strip():
            steps = sorted(len(end) for end in ends if solution.startswith(end))
            label = Label("soft", value, len(steps) - 1)
            responses.append(Response(str(place), solution, extra=fields.extra(), step_ends=steps, labels=(label,)))
    return answered(question(prompt), responses)


def _start(entry: Any, prompt: str, where: str) -> tuple[str, float]:
    """Return (text after the question, share of right completions)."""
    if not isinstance(entry, Mapping):
        raise RowDropped("bad_field", "an object is expected", where)
    prefix, value = text(entry.get("solution_prefix"), f"{where}.solution_prefix"), number(entry.get("mc_value"))
    if not prefix.startswith(prompt):
        raise RowDropped("bad_field", "a start does not begin with the question", f"{where}.solution_prefix")
    if value is None or not 0 <= value <= 1:
        raise RowDropped("bad_field", "a share is no number from 0 to 1", f"{where}.mc_value")
    return prefix.removeprefix(prompt).lstrip(), value
