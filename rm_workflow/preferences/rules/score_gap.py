"""Keep a pair when the score of the chosen response is so much higher than that of the rejected one, and not more.

open-instruct's ``helpsteer2.py`` calls the least difference ``margin``; here it is the score gap, as a margin belongs
to a loss. ``max`` takes out what is too easy to teach anything. Compared exactly: scores are sums of decimals (9
places) over counts, ``min`` and ``max`` have 6 places.

score_gap: {min: 1}

    keeps   4.5 against 3.5      gap 1 is at least 1
    drops   4.5 against 4        gap 0.5

Equal scores have the gap 0. A missing score leaves no gap, and the pair is dropped with that reason; a given pair whose
rejected side has the higher score has a gap below 0.
"""

from typing import Annotated

from pydantic import Field, model_validator

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = True

Gap = Annotated[float, Field(ge=0, lt=1_000_000)]


class Parameters(RuleParameters):
    """``min``: the gap asked for; ``strict``: whether it must be exceeded; ``max``: the largest gap that stays."""

    min: Annotated[Gap, Field(description="a number from 0 to below 1,000,000")] = 0
    strict: Annotated[bool, Field(description="true (gap > min) or false (gap >= min)")] = False
    max: Annotated[Gap | None, Field(description="a number from min, or left out")] = None

    @model_validator(mode="after")
    def _in_order(self) -> "Parameters":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max is {self.max:g} and min {self.min:g}, so that no gap is between them")
        return self


def sql(parameters: Parameters) -> str:
    """Select the candidates with too small or too large a gap, or with none."""
    relation = ">" if parameters.strict else ">="
    wanted = f"{'above' if parameters.strict else 'at least'} {parameters.min:g}"
    is_enough = f"gap {relation} {_decimal(parameters.min)} * counts"
    above = "false" if parameters.max is None else f"gap > {_decimal(parameters.max)} * counts"
    return f"""
        -- score_gap: chosen_score - rejected_score {relation} {parameters.min!r}, at most {parameters.max!r}, exactly
        with gaps as (
            select
                pair_id, chosen_score, rejected_score,
                chosen_sum * rejected_count - rejected_sum * chosen_count as gap,
                chosen_count * rejected_count as counts
            from candidates
        )
        select
            pair_id,
            case
                when gap is null then 'a score is missing, so there is no score gap'
                when {is_enough} then 'score gap is above {parameters.max or 0:g}'
                else 'score gap is not {wanted}'
            end as reason,
            format(
                '{{}} against {{}}',
                coalesce(format('{{:g}}', chosen_score), 'none'), coalesce(format('{{:g}}', rejected_score), 'none')
            ) as detail
        from gaps
        where gap is null or not {is_enough} or {above}
    """


def _decimal(number: float) -> str:
    return f"{number:.6f}::decimal(12, 6)"
