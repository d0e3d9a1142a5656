"""Rated lists: one prompt, any number of completions, each with ratings by attribute.

Example row::

    {"prompt": "Name a river.",
     "completions": [{"text": "The Danube.", "model": "m-a", "ratings": {"helpfulness": 5, "honesty": "N/A"}},
                     {"text": "No.", "model": "m-b", "ratings": {"helpfulness": 1, "honesty": 3}}]}

The prompt is text or a list of messages. A rating is a number, a number as text ("4", as UltraFeedback writes it), or
an object with ``Rating``; an attribute without a number ("N/A", null) is left out of that completion's ratings.

Ratings may stand in other places as well, named in ``columns``: ``rating_<name>`` is a field of a completion, ``rank``
one in which 1 is the best (it becomes the rating ``rank``, as its negative, so that more is better as everywhere), and
``scores`` a column of the row with one number for each completion, which may be plain text then (rating ``score``)::

    {"prompt": "Name a river.", "completions": [{"text": "The Danube.", "rank": 1}, {"text": "No.", "rank": 2}]}
    {"prompt": "Name a river.", "completions": ["The Danube.", "No."], "scores": [5, 1]}
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import (
    EXTRA,
    RATING,
    Fields,
    answered,
    extra_of,
    number,
    optional_text,
    text,
)
from rm_workflow.preferences.tables import Example, Response, RowDropped

# ``text``, ``model``, ``ratings``, ``rank``, ``rating_<name>`` and ``extra_<name>`` are fields of a completion, the
# others columns of the row.
COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "prompt_input": None,
    "system": None,
    "completions": "completions",
    "text": None,
    "model": "model",
    "ratings": "ratings",
    "rank": None,
    "scores": None,
}
PREFIXES = (EXTRA, RATING)
SCORE = "score"
RANK = "rank"
TEXT_FIELDS = ("text", "response")


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and its completions as slots "0", "1", ..."""
    fields = Fields(row, source, COLUMNS)
    prompt = fields.prompt()
    completions = fields.required("completions")
    if not isinstance(completions, list) or not completions:
        raise RowDropped("bad_field", "a list of completions is expected", "completions")
    scores = _scores(fields, len(completions))
    responses = [
        _response(value, index, source.columns, scores[index] if scores else {})
        for index, value in enumerate(completions)
    ]
    return answered(prompt, responses)


def _scores(fields: Fields, num_completions: int) -> list[dict[str, float]]:
    """Return the rating of each completion that a column of the row holds, or nothing if none is named."""
    if "scores" not in fields.columns:
        return []
    values = fields.required("scores")
    if not isinstance(values, list) or len(values) != num_completions:
        raise RowDropped("bad_field", "one score for each completion is expected", fields.columns["scores"])
    numbers = [number(_plain(value)) for value in values]
    return [{} if score is None else {SCORE: score} for score in numbers]


def _response(value: Any, index: int, columns: Mapping[str, str], scores: Mapping[str, float]) -> Response:
    where = f"completions[{index}]"
    if isinstance(value, str) and "scores" in columns:
        return Response(slot=str(index), text=text(value, where), ratings=scores)
    if not isinstance(value, Mapping):
        raise RowDropped("bad_field", "a completion is no object", where)
    model = columns.get("model", "model")
    ratings = {**_ratings(value, columns, where), **_rated_fields(value, columns, where), **scores}
    return Response(
        slot=str(index),
        text=_text(value, where, columns.get("text")),
        model=optional_text(value.get(model), f"{where}.{model}"),
        ratings=dict(sorted(ratings.items())),
        extra=extra_of(value, columns),
    )


def _text(completion: Mapping[str, Any], where: str, named: str | None) -> str:
    names = (named,) if named else TEXT_FIELDS
    field = next((name for name in names if name in completion), names[0])
    return text(completion.get(field), f"{where}.{field}")


def _rated_fields(completion: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, float]:
    """Return the ratings that are fields of the completion itself."""
    named = {key.removeprefix(RATING): field for key, field in columns.items() if key.startswith(RATING)}
    ratings = {name: number(_plain(_field(completion, field, where))) for name, field in named.items()}
    if RANK in columns:
        rank = number(_field(completion, columns[RANK], where))
        ratings[RANK] = None if rank is None else -rank
    return {name: rating for name, rating in ratings.items() if rating is not None}


def _field(completion: Mapping[str, Any], field: str, where: str) -> Any:
    if field not in completion:
        raise RowDropped("bad_field", "a completion has no such rating", f"{where}.{field}")
    return completion[field]


def _ratings(completion: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, float]:
    """Return the ratings that stand together under one field; none is needed where the source names other places."""
    if "ratings" not in columns and any(key in ("scores", RANK) or key.startswith(RATING) for key in columns):
        return {}
    field = columns.get("ratings", "ratings")
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
