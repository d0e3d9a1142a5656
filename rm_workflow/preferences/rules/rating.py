"""Drop a candidate one of whose responses has no score.

UltraFeedback rates some aspects "N/A" (fine-grained score: the mean over the aspects that have a number), Orca has 42
rows without a rating. A response's score is the mean of the ratings that the pair set names and that are there; where
none is there, there is no score, and what has no score cannot be ranked.

score: [helpfulness, honesty]

    keeps   {"helpfulness": 4, "honesty": "N/A"} against {"helpfulness": 3, "honesty": 5}     4 against 4
    drops   {"helpfulness": "N/A", "honesty": "N/A"} against {"helpfulness": 3, "honesty": 5} none against 4
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = True


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates without a score on one side."""
    return """
        -- rating: both sides must have a score
        select
            pair_id,
            'a response has none of the ratings that make its score' as reason,
            case
                when chosen_score is null and rejected_score is null then 'both sides'
                else 'slot ' || slots[if(chosen_score is null, 1, 2)]
            end as detail
        from candidates
        where chosen_score is null or rejected_score is null
    """
