"""Drop a candidate whose two responses have the same score: it says nothing about which is better.

RM-Mistral-7B, UltraFeedback and HelpSteer: "we delete the selected pairs with equal scores". A score is a mean, and
equal means can differ as floats, so sums are compared crosswise as decimals (9 places): sum_a * count_b = sum_b *
count_a. A pair without a score on one side is not judged; that is the rule ``rating``'s.

score: [helpfulness, correctness]

    keeps   (4 + 3) / 2 against (3 + 3) / 2
    drops   (4 + 3) / 2 against (3 + 4) / 2
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = True


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates with equal scores."""
    return """
        -- equal_score: the same exact fraction on both sides
        select pair_id, 'both responses have the same score' as reason, format('{:g}', chosen_score) as detail
        from candidates
        where chosen_sum * rejected_count = rejected_sum * chosen_count
    """
