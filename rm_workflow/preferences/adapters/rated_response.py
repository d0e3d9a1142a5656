"""One rated response a row, those of one prompt in several rows: HelpSteer and HelpSteer2.

Example rows, with ``columns: {rating_helpfulness: helpfulness, rating_correctness: correctness}``::

    {"prompt": "Name a river.", "response": "The Danube.", "helpfulness": 4, "correctness": 4}
    {"prompt": "Name a river.", "response": "No.", "helpfulness": 0, "correctness": 1}

A pair set of such a source has ``candidates: rated_prompt``: the responses of one prompt in one file are compared.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import (
    EXTRA,
    RATING,
    Fields,
    answered,
    number,
    optional_text,
    text,
)
from rm_workflow.preferences.tables import Example, Response

COLUMNS: Mapping[str, str | None] = {
    "prompt": "prompt",
    "prompt_input": None,
    "system": None,
    "response": "response",
    "model": None,
}
PREFIXES = (EXTRA, RATING)


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the prompt and its one response as slot "0"."""
    fields = Fields(row, source, COLUMNS)
    ratings = {name: number(value) for name, value in sorted(fields.named(RATING).items())}
    response = Response(
        slot="0",
        text=text(fields.required("response"), "response"),
        model=optional_text(fields.optional("model"), "model"),
        ratings={name: rating for name, rating in ratings.items() if rating is not None},
        extra=fields.extra(),
    )
    return answered(fields.prompt(), [response])
