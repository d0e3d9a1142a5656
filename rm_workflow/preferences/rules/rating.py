"""Drop a candidate one of whose responses has no score, or whose chosen response has too low a one.

UltraFeedback rates some aspects "N/A" (fine-grained score: the mean over the aspects that have a number), Orca has 42
rows without a rating. A response's score is the mean of the ratings that the pair set names and that are there; where
none is there, there is no score, and what has no score cannot be ranked.

score: [helpfulness, honesty]

    keeps   {"helpfulness": 4, "honesty": "N/A"} against {"helpfulness": 3, "honesty": 5}     4 against 4
    drops   {"helpfulness": "N/A", "honesty": "N/A"} against {"helpfulness": 3, "honesty": 5} none against 4

``min`` asks for a good chosen response, compared exactly (``min`` has 6 places).
argilla/distilabel-intel-orca-dpo-pairs rates the chosen side alone, and its card keeps ``chosen_score >= 8``:

rating: {min: 8, of: chosen}

    keeps   8 against none
    drops   7.5 against none
"""

from typing import Annotated, Literal

from pydantic import Field

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = True

# The sides that must have a score.
UNSCORED = {"both": "(chosen_score is null or rejected_score is null)", "chosen": "chosen_score is null"}


class Parameters(RuleParameters):
    """``min``: the least score of the chosen response; ``of``: which sides must have a score."""

    min: Annotated[float | None, Field(gt=-1_000_000, lt=1_000_000, description="a number, or left out")] = None
    of: Annotated[Literal["both", "chosen"], Field(description="both or chosen")] = "both"


def sql(parameters: Parameters) -> str:
    """Select the candidates without a score, or with too low a one."""
    low = "false"
    if parameters.min is not None:
        low = f"chosen_sum < {parameters.min:.6f}::decimal(12, 6) * chosen_count"
    return f"""
        -- rating: a score on {parameters.of}, the chosen one's at least {parameters.min}
        select
            pair_id,
            case
                when {UNSCORED[parameters.of]} then 'a response has none of the ratings that make its score'
                else 'the score of the chosen response is below {parameters.min or 0:g}'
            end as reason,
            case
                when not {UNSCORED[parameters.of]} then format('{{:g}}', chosen_score)
                when chosen_score is null and rejected_score is null then 'both sides'
                else 'slot ' || slots[if(chosen_score is null, 1, 2)]
            end as detail
        from candidates
        where {UNSCORED[parameters.of]} or {low}
    """
