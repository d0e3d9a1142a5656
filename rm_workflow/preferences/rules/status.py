"""Drop a pair whose source marks it with one of the given words.

argilla/distilabel-intel-orca-dpo-pairs has a column ``status`` (tie, swapped, unchanged) from its judge; its card keeps
what is no tie. The source carries the column along: ``columns: {extra_status: status}``.

status: {drop: [tie]}

    keeps   status swapped
    drops   status tie
"""

from typing import Annotated

from pydantic import Field

from rm_workflow.database import quote_literal
from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False
NEEDS_EXTRA = ("status",)


class Parameters(RuleParameters):
    """``drop``: the words that drop a pair."""

    drop: Annotated[list[str], Field(min_length=1, description="a list of at least one word")]


def sql(parameters: Parameters) -> str:
    """Select the candidates with one of the words."""
    words = ", ".join(map(quote_literal, parameters.drop))
    return f"""
        -- status: the source's own mark is none of {len(parameters.drop)} given words
        select pair_id, 'its source gives it a status that is dropped' as reason, extra ->> '$.status' as detail
        from candidates
        where extra ->> '$.status' in ({words})
    """
