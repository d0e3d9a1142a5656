"""Given pairs in the forms that TRL, Tulu 3, Skywork, Capybara, Orca, UltraInteract and LLaMA-Factory use.

Example rows, one a form::

    {"prompt": "Name a river.", "chosen": "The Danube.", "rejected": "No."}
    {"prompt": [{"role": "user", "content": "Name a river."}],
     "chosen": [{"role": "assistant", "content": "The Danube."}],
     "rejected": [{"role": "assistant", "content": "No."}]}
    {"chosen": [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Danube."}],
     "rejected": [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "No."}]}

In the last form the prompt is all but the last message, and a ``prompt`` column (a title, a flattened dialogue) is not
read. Messages may be written ``{"from", "value"}`` too, one message may stand without its list, and a list of messages
in an object under ``messages``, as in the preference format of OpenAI. ``chosen_score`` and ``rejected_score`` become
the rating ``score``; ``system`` is a column with a system turn, ``prompt_input`` one that goes on with it (Alpaca).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import (
    Fields,
    messages,
    number,
    optional_text,
    text,
    two_sides,
)
from rm_workflow.preferences.tables import Example, Message, Response

# Scores, models and the system turn are read only where the source names their columns.
COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "chosen": "chosen",
    "rejected": "rejected",
    "prompt_input": None,
    "system": None,
    "chosen_score": None,
    "rejected_score": None,
    "chosen_model": None,
    "rejected_model": None,
}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and the slots chosen and rejected."""
    fields = Fields(row, source, COLUMNS)
    chosen, rejected = (_side(fields, name) for name in ("chosen", "rejected"))
    before = fields.prompt() if _is_reply(chosen) and _is_reply(rejected) else fields.system_turn()
    responses = [_response(fields, "chosen", chosen), _response(fields, "rejected", rejected)]
    return Example(two_sides([*before, *chosen], [*before, *rejected]), responses)


def _side(fields: Fields, name: str) -> list[Message]:
    value = fields.required(name)
    if isinstance(value, str):
        return [{"role": "assistant", "content": text(value, name)}]
    return messages([value] if isinstance(value, Mapping) else value, name)


def _is_reply(side: Sequence[Message]) -> bool:
    return len(side) == 1 and side[0]["role"] == "assistant"


def _response(fields: Fields, name: str, side: Sequence[Message]) -> Response:
    score = number(fields.optional(f"{name}_score"))
    return Response(
        slot=name,
        text=side[-1]["content"],
        model=optional_text(fields.optional(f"{name}_model"), f"{name}_model"),
        ratings={} if score is None else {"score": score},
        extra=fields.extra(),
    )
