"""Steps that people rated while they chose how to go on: PRM800K (arXiv 2305.20050).

Example row (columns that are not read left out)::

    {"question": {"problem": "2 + 3 - 1?", "ground_truth_answer": "4"},
     "label": {"finish_reason": "solution", "steps": [
        {"completions": [{"text": "2 + 3 = 5.", "rating": 1}], "human_completion": null, "chosen_completion": 0},
        {"completions": [{"text": "5 - 1 = 6.", "rating": -1}, {"text": "# Answer\\n\\n4", "rating": 1}],
         "human_completion": null, "chosen_completion": 1}]}}

The path is made of the chosen completion of each step, or of ``human_completion`` where none was chosen; it ends where
neither is there (an error was found, the labeller gave up). It is the response in slot ``path``. Each completion that
was not chosen is a response of its own, the path so far and this step, in slot ``<step>.<completion>``.

Every rating is one label (kind rating, -1, 0 or 1), at the end of its step: of a response that branches off only the
last step is labelled, as its earlier ratings stand on the path. A step without a rating has no label. ``neutral`` of
the source says what becomes of 0: ``keep`` leaves the choice to whoever uses the labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, Scalar, answered, text
from rm_workflow.preferences.adapters._steps import joined, question
from rm_workflow.preferences.tables import Example, Label, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {"question": "question", "label": "label"}
STEP_FIELDS = {"step_separator": False, "neutral": False}
# Columns that tell who labelled, and whether the row was a test of the labeller.
TOLD = ("labeler", "generation", "is_quality_control_question", "is_initial_screening_question")
NEUTRAL = {"positive": 1.0, "negative": -1.0}


@dataclass(frozen=True)
class _Step:
    """One completion of a step."""

    text: str
    rating: float | None


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the problem, the path, and what branches off."""
    fields = Fields(row, source, COLUMNS)
    asked, label = (_object(fields.required(name), name) for name in ("question", "label"))
    problem = text(asked.get("problem"), "question.problem")
    extra: dict[str, Scalar] = {name: row.get(name) for name in TOLD if isinstance(row.get(name), (int, bool))}
    extra |= {name: text(row[name], name) for name in TOLD if isinstance(row.get(name), str)}
    extra |= {"finish_reason": text(label.get("finish_reason"), "label.finish_reason"), **fields.extra()}
    path: list[_Step] = []
    branches: list[Response] = []
    ended = False
    for number, step in enumerate(_objects(label.get("steps"), "label.steps")):
        if ended:
            raise RowDropped("bad_field", "a step follows one at which nothing was chosen", f"label.steps[{number}]")
        completions, chosen = _completions(step, f"label.steps[{number}]")
        for place, completion in enumerate(completions):
            if place != chosen:
                slot = f"{number}.{place}"
                branches.append(_response(slot, [*path, completion], [number], source, extra))
        after = completions[chosen] if chosen is not None else _human(step, f"label.steps[{number}]")
        ended = after is None
        path += [after] if after else []
    responses = [_response("path", path, range(len(path)), source, extra)] if path else []
    if not (responses or branches):
        raise RowDropped("bad_field", "no step has a completion", "label.steps")
    return answered(question(problem), [*responses, *branches])


def _response(
    slot: str, steps: Sequence[_Step], labelled: Sequence[int], source: Source, extra: Mapping[str, Scalar]
) -> Response:
    solution, ends = joined([step.text for step in steps], source.step_separator, f"response {slot}")
    labels = tuple(_labels(steps, labelled, source))
    return Response(slot, solution, extra=extra, step_ends=ends, labels=labels)


def _labels(steps: Sequence[_Step], labelled: Sequence[int], source: Source) -> Iterator[Label]:
    for number in labelled:
        rating = steps[number].rating
        if rating is None or (rating == 0 and source.neutral == "unlabelled"):
            continue
        yield Label("rating", NEUTRAL.get(source.neutral, 0.0) if rating == 0 else rating, number)


def _completions(step: Mapping[str, Any], where: str) -> tuple[list[_Step], int | None]:
    """Return the completions of a step and which of them was chosen."""
    listed = step.get("completions")
    entries = [] if listed is None else _objects(listed, f"{where}.completions")
    completions = [_step(entry, f"{where}.completions[{place}]") for place, entry in enumerate(entries)]
    chosen = step.get("chosen_completion")
    if chosen is not None and (isinstance(chosen, bool) or chosen not in range(len(completions))):
        raise RowDropped("bad_field", "the chosen completion is none of the step's", f"{where}.chosen_completion")
    # tables with empty cells hold whole numbers as 0.0
    return completions, None if chosen is None else int(chosen)


def _human(step: Mapping[str, Any], where: str) -> _Step | None:
    written = step.get("human_completion")
    return None if written is None else _step(_object(written, where), f"{where}.human_completion")


def _step(entry: Mapping[str, Any], where: str) -> _Step:
    rating = entry.get("rating")
    if rating is not None and (isinstance(rating, bool) or rating not in (-1, 0, 1)):
        raise RowDropped("bad_field", "a rating is none of -1, 0, 1 and null", f"{where}.rating")
    return _Step(text(entry.get("text"), f"{where}.text"), None if rating is None else float(rating))


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RowDropped("bad_field", "an object is expected", where)
    return value


def _objects(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise RowDropped("bad_field", "a list is expected", where)
    return [_object(entry, f"{where}[{place}]") for place, entry in enumerate(value)]
