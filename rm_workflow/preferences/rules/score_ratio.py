"""Keep a pair when the score of the chosen response is at least so many times that of the rejected one.

RM-Mistral-7B: "SHP: we only use the samples with score ratio > 2" (strict). HALOs and the DPO repository keep a ratio
of exactly 2: ``strict: false``. Compared exactly: scores are sums of decimals (9 places) over counts, ``min`` has 6
places.

score_ratio: {min: 2}

    keeps   42 votes against 7      ratio 6
    drops   14 votes against 7      ratio 2 is not above 2

Equal scores are not judged here: they are ``equal_score``'s. A ratio is a ratio of positive numbers: where the rejected
score is 0 or negative, or a score is missing, none is defined, and the pair is dropped with that reason. A given pair
whose rejected side has the higher score has a ratio below 1 and is dropped.
"""

from typing import Annotated

from pydantic import Field

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = True


class Parameters(RuleParameters):
    """``min``: the ratio asked for; ``strict``: whether it must be exceeded."""

    min: Annotated[float, Field(ge=1, lt=1000, description="a number from 1 to below 1000")]
    strict: Annotated[bool, Field(description="true (ratio > min) or false (ratio >= min)")] = True


def sql(parameters: Parameters) -> str:
    """Select the candidates with too small a ratio, or with none."""
    relation = ">" if parameters.strict else ">="
    wanted = f"{'above' if parameters.strict else 'at least'} {parameters.min:g}"
    return f"""
        -- score_ratio: chosen_score / rejected_score {relation} {parameters.min!r} exactly, equal scores apart
        select
            pair_id,
            case
                when chosen_sum is null or rejected_sum is null then 'a score is missing, so there is no ratio'
                when rejected_sum <= 0 then 'the rejected score is not positive, so there is no ratio'
                else 'score ratio is not {wanted}'
            end as reason,
            format(
                '{{}} against {{}}',
                coalesce(format('{{:g}}', chosen_score), 'none'), coalesce(format('{{:g}}', rejected_score), 'none')
            ) as detail
        from candidates
        where (chosen_sum * rejected_count = rejected_sum * chosen_count) is not true
            and (
                rejected_sum > 0
                and chosen_sum * rejected_count {relation}
                    rejected_sum * chosen_count * {parameters.min:.6f}::decimal(9, 6)
            ) is not true
    """
