"""Anthropic HH-RLHF: two whole transcripts a row, which should differ in their last reply only (arXiv 2204.05862).

Example row::

    {"chosen": "\\n\\nHuman: Name a river.\\n\\nAssistant: The Danube.",
     "rejected": "\\n\\nHuman: Name a river.\\n\\nAssistant: No."}

Both sides are parsed independently: cutting one at the other's offset, or pairing the offsets of the two role marks,
goes wrong wherever the contexts differ in length, a reply is empty or a speaker has two turns in a row. A role word
that does not follow an empty line is text.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.catalog.models import Source
from rm_workflow.preferences.adapters._fields import Fields, parse_transcript, text, two_sides
from rm_workflow.preferences.tables import Example, Response

COLUMNS: Mapping[str, str | None] = {"chosen": "chosen", "rejected": "rejected"}


def read(row: Mapping[str, Any], source: Source) -> Example:
    """Return the shared dialogue as the prompt and the two last replies as slots chosen and rejected."""
    fields = Fields(row, source, COLUMNS)
    chosen, rejected = (parse_transcript(text(fields.required(side), side), side) for side in ("chosen", "rejected"))
    context = two_sides(chosen, rejected)
    extra = fields.extra()
    return Example(
        context,
        [
            Response("chosen", chosen[-1]["content"], extra=extra),
            Response("rejected", rejected[-1]["content"], extra=extra),
        ],
    )
