"""Two responses and a label that says which is better: SHP, PKU-SafeRLHF, HelpSteer2's preferences, arena votes.

Example rows, with ``columns: {label: preference}`` and ``winner: {a: [1], b: [2], tie: [0]}``::

    {"prompt": "Name a river.", "response_a": "The Danube.", "response_b": "No.", "preference": 1}
    {"prompt": "Name a river.", "response_a": "No.", "response_b": "The Danube.", "preference": 2}

Both rows give the chosen response "The Danube.". Each response has the rating ``preference`` (1 the better one, 0 the
other, both 0 for a tie, which only the rule ``equal_score`` over ``score: [preference]`` tells from a pair), and
``score`` where the source names columns for scores.
"""

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
    "system": None,
    "response_a": "response_a",
    "response_b": "response_b",
    "label": "label",
    "score_a": None,
    "score_b": None,
    "model_a": None,
    "model_b": None,
}
READS_WINNER = True


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and the slots chosen and rejected; of a tie the first response is called chosen."""
    fields = Fields(row, source, COLUMNS)
    winner = _winner(fields.required("label"), source)
    chosen, rejected = ("b", "a") if winner == "b" else ("a", "b")
    responses = [
        _response(fields, "chosen", chosen, 0.0 if winner == "tie" else 1.0),
        _response(fields, "rejected", rejected, 0.0),
    ]
    return answered(fields.prompt(), responses)


def _winner(label: Any, source: Source) -> str:
    for winner, labels in source.winner.items():
        # 1 == True in Python, and a label true is none of the numbers.
        if any(label == known and isinstance(label, bool) == isinstance(known, bool) for known in labels):
            return winner
    raise RowDropped("bad_field", "the label is none of those under `winner`", repr(label)[:50])


def _response(fields: Fields, slot: str, side: str, preference: float) -> Response:
    score = number(fields.optional(f"score_{side}"))
    return Response(
        slot=slot,
        text=text(fields.required(f"response_{side}"), f"response_{side}"),
        model=optional_text(fields.optional(f"model_{side}"), f"model_{side}"),
        ratings={PREFERENCE: preference, **({} if score is None else {"score": score})},
        extra=fields.extra(),
    )
