"""Two responses and a label that says which is better: SHP, PKU-SafeRLHF, HelpSteer2's preferences, arena votes.

Example rows, with ``columns: {label: preference}`` and ``winner: {a: [1], b: [2], tie: [0]}``::

    {"prompt": "Name a river.", "response_a": "The Danube.", "response_b": "No.", "preference": 1}
    {"prompt": "Name a river.", "response_a": "No.", "response_b": "The Danube.", "preference": 2}

Both rows give the chosen response "The Danube.". Each response has the rating ``preference`` (1 the better one, 0 the
other, both 0 for a tie, which only the rule ``equal_score`` over ``score: [preference]`` tells from a pair), and
``score`` where the source names columns for scores. Where several rows are votes on the same two responses, the pair
set has ``candidates: voted``, which sums them.

Votes that are counted already stand in columns of their own, with ``columns: {votes_a: up_a, votes_b: up_b}`` and no
``winner``; more votes win, and the rating ``votes`` holds the votes of a side and half of those in ``votes_tie``::

    {"prompt": "Name a river.", "response_a": "The Danube.", "response_b": "No.", "up_a": 3, "up_b": 1}

``sha256_a`` and ``sha256_b`` name columns with the hash of prompt and response one after the other, as PKU-SafeRLHF
has them; a row whose text does not have that hash is dropped as bad_field.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import (
    Fields,
    answered,
    number,
    optional_text,
    text,
)
from rm_workflow.preferences.tables import PREFERENCE, Example, Response, RowDropped

COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "prompt_input": None,
    "system": None,
    "response_a": "response_a",
    "response_b": "response_b",
    "label": "label",
    "votes_a": None,
    "votes_b": None,
    "votes_tie": None,
    "score_a": None,
    "score_b": None,
    "model_a": None,
    "model_b": None,
    "sha256_a": None,
    "sha256_b": None,
}
READS_WINNER = True
INSTEAD_OF_WINNER = ("votes_a", "votes_b")
VOTES = "votes"

Ratings = Mapping[str, float]


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and the slots chosen and rejected; of a tie the first response is called chosen."""
    fields = Fields(row, source, COLUMNS)
    counted = _counted_votes(fields)
    winner = _most_votes(counted) if counted else winner_of(fields.required("label"), source)
    chosen, rejected = ("b", "a") if winner == "b" else ("a", "b")
    responses = [
        _response(fields, "chosen", chosen, {PREFERENCE: 0.0 if winner == "tie" else 1.0, **counted.get(chosen, {})}),
        _response(fields, "rejected", rejected, {PREFERENCE: 0.0, **counted.get(rejected, {})}),
    ]
    return answered(fields.prompt(), responses)


def winner_of(label: Any, source: Source) -> str:
    """Return ``a``, ``b`` or ``tie`` by ``winner`` of the source.

    Raises:
        RowDropped: bad_field where it names no such label.
    """
    for winner, labels in source.winner.items():
        # 1 == True in Python, and a label true is none of the numbers.
        if any(label == known and isinstance(label, bool) == isinstance(known, bool) for known in labels):
            return winner
    raise RowDropped("bad_field", "the label is none of those under `winner`", repr(label)[:50])


def _counted_votes(fields: Fields) -> dict[str, Ratings]:
    """Return the rating ``votes`` of either side, or nothing where the source has no such columns."""
    if not fields.columns.keys() >= set(INSTEAD_OF_WINNER):
        return {}
    ties = _votes(fields, "votes_tie") if "votes_tie" in fields.columns else 0.0
    return {side: {VOTES: _votes(fields, f"votes_{side}") + ties / 2} for side in ("a", "b")}


def _votes(fields: Fields, key: str) -> float:
    votes = number(fields.required(key))
    if votes is None or votes < 0:
        raise RowDropped("bad_field", "a number of votes is expected", fields.columns[key])
    return votes


def _most_votes(counted: Mapping[str, Ratings]) -> str:
    a, b = counted["a"][VOTES], counted["b"][VOTES]
    return "tie" if a == b else "a" if a > b else "b"


def _response(fields: Fields, slot: str, side: str, ratings: Ratings) -> Response:
    score = number(fields.optional(f"score_{side}"))
    response = text(fields.required(f"response_{side}"), f"response_{side}")
    _refuse_other_hash(fields, f"sha256_{side}", response)
    return Response(
        slot=slot,
        text=response,
        model=optional_text(fields.optional(f"model_{side}"), f"model_{side}"),
        ratings={**ratings, **({} if score is None else {"score": score})},
        extra=fields.extra(),
    )


def _refuse_other_hash(fields: Fields, key: str, response: str) -> None:
    stated = fields.row.get(fields.columns[key]) if key in fields.columns else None
    if stated is None:
        return
    prompt = text(fields.required("prompt"), "prompt")
    if stated != hashlib.sha256((prompt + response).encode("utf-8")).hexdigest():
        raise RowDropped("bad_field", "prompt and response do not have the hash that the row states", key)
