"""Rated lists: one prompt, any number of completions, each with ratings by attribute.

Example row::

    {"prompt": "Name a river.",
     "completions": [{"text": "The Danube.", "model": "m-a", "ratings": {"helpfulness": 5, "honesty": "N/A"}},
                     {"text": "No.", "model": "m-b", "ratings": {"helpfulness": 1, "honesty": 3}}]}

The prompt is text or a list of messages. A rating is a number, a number as text ("4", as UltraFeedback writes it), or
an object with ``Rating``; an attribute without a number ("N/A", null) is left out of that completion's ratings.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import (
    Fields,
    answered,
    extra_of,
    number,
    optional_text,
    text,
)
from rm_workflow.preferences.tables import Example, Response, RowDropped

# ``text``, ``model``, ``ratings`` and ``extra_<name>`` are fields of a completion, the others columns of the row.
COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "system": None,
    "completions": "completions",
    "text": None,
    "model": "model",
    "ratings": "ratings",
}
TEXT_FIELDS = ("text", "response")


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and its completions as slots "0", "1", ..."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    completions = fields.required("completions")
    if not isinstance(completions, list) or not completions:
        raise RowDropped("bad_field", "a list of completions is expected", "completions")
    responses = [_response(value, index, source.columns) for index, value in enumerate(completions)]
    return answered(prompt, responses)


def _response(value: Any, index: int, columns: Mapping[str, str]) -> Response:
    where = f"completions[{index}]"
    if not isinstance(value, Mapping):
        raise RowDropped("bad_field", "a completion is no object", where)
    model = columns.get("model", "model")
    return Response(
        slot=str(index),
        text=_text(value, where, columns.get("text")),
        model=optional_text(value.get(model), f"{where}.{model}"),
        ratings=_ratings(value, columns.get("ratings", "ratings"), where),
        extra=extra_of(value, columns),
    )


def _text(completion: Mapping[str, Any], where: str, named: str | None) -> str:
    names = (named,) if named else TEXT_FIELDS
    field = next((name for name in names if name in completion), names[0])
    return text(completion.get(field), f"{where}.{field}")


def _ratings(completion: Mapping[str, Any], field: str, where: str) -> dict[str, float]:
    if field not in completion:
        raise RowDropped("bad_field", "a completion has no ratings", f"{where}.{field}")
    value = completion[field]
    # Parquet's map type arrives as a list of pairs.
    if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)
    if value is not None and not isinstance(value, Mapping):
        raise RowDropped("bad_field", "ratings by attribute are expected", f"{where}.{field}")
    numbers = {text(name, f"{where}.{field}"): number(_plain(rating)) for name, rating in (value or {}).items()}
    return {name: rating for name, rating in sorted(numbers.items()) if rating is not None}


def _plain(rating: Any) -> Any:
    return rating.get("Rating") if isinstance(rating, Mapping) else rating
