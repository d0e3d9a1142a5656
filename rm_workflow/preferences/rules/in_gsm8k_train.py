"""Drop a pair that its source marks as a question of GSM8K's train split.

argilla/distilabel-intel-orca-dpo-pairs has the boolean column ``in_gsm8k_train``; its card takes these rows out, so
that maths can be evaluated on GSM8K. The source carries it along: ``columns: {extra_in_gsm8k_train: in_gsm8k_train}``.

    keeps   in_gsm8k_train false
    drops   in_gsm8k_train true
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False
NEEDS_EXTRA = ("in_gsm8k_train",)


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates that are marked."""
    return """
        -- in_gsm8k_train: the source does not mark it as a GSM8K train question
        select pair_id, 'its source marks it as a question of GSM8K train' as reason, null::varchar as detail
        from candidates
        where (extra ->> '$.in_gsm8k_train')::boolean
    """
