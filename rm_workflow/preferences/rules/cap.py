"""Keep at most so many pairs of one prompt, so that much-answered prompts do not weigh more than all others.

RM-Mistral-7B: "SHP: for each prompt, we take 5 comparison at most". Which ones is decided by a hash of the pair's
content and ``seed``, never by position: shuffled rows give the same choice. Always the last rule.

cap: {max_pairs: 2}

    keeps   the 2 pairs of a prompt with the smallest hash
    drops   its third one
"""

from typing import Annotated, Literal

from pydantic import Field

from rm_workflow.preferences.rules import RuleParameters
from rm_workflow.preferences.sql import keyed_hash_sql

NEEDS_SCORES = False


class Parameters(RuleParameters):
    """``max_pairs`` kept of one prompt; ``seed`` of the choice."""

    max_pairs: Annotated[int, Field(ge=1, description="a whole number from 1")]
    per: Annotated[Literal["prompt"], Field(description="prompt")] = "prompt"
    seed: Annotated[int, Field(ge=0, description="a whole number from 0")] = 0


def sql(parameters: Parameters) -> str:
    """Select the candidates beyond the first ``max_pairs`` by keyed hash."""
    return f"""
        -- cap: at most {parameters.max_pairs} pairs of one prompt, chosen by content_id(["cap", seed, pair_key])
        select
            pair_id,
            'its prompt has more than {parameters.max_pairs} pairs' as reason,
            'place ' || place || ' of ' || pairs || ' by keyed hash' as detail
        from (
            select
                pair_id,
                row_number() over (partition by prompt_id order by draw, pair_id) as place,
                count(*) over (partition by prompt_id) as pairs
            from (select *, {keyed_hash_sql("cap", parameters.seed, "pair_key")} as draw from candidates)
        )
        where place > {parameters.max_pairs}
    """
