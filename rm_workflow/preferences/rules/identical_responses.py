"""Drop a pair whose two responses are the same text.

RM-Mistral-7B: "HH-RLHF: we only use the helpful subset and we delete the noisy samples where chosen_response ==
rejected_response". Same means the same characters: a response's id is a hash of its exact text.

    keeps   "Yes." over "Yes"
    drops   "Yes." over "Yes."
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates with the same response on both sides."""
    return """
        -- identical_responses: chosen and rejected are the same text
        select pair_id, 'chosen and rejected are the same text' as reason, cast(null as varchar) as detail
        from candidates
        where chosen_id = rejected_id
    """
