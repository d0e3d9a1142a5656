"""Drop a pair that the source shows a second time: same prompt, same chosen, same rejected text.

The first by file name, row and slots is kept; ``detail`` is its pair_id. Only pairs that the rules before have left
count as first. The opposite label (the same two texts, the other way round) is no duplicate but a contradiction.

    keeps   line 7: "Hi" -> "Hello!" over "What?"
    drops   line 9: "Hi" -> "Hello!" over "What?"
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates whose pair_key stands further up."""
    return """
        -- exact_duplicate: all but the first occurrence of a pair_key (n counts by file, row, slots)
        select pair_id, 'the same pair stands earlier in this source' as reason, twin as detail
        from (select pair_id, first_value(pair_id) over (partition by pair_key order by n) as twin from candidates)
        where pair_id <> twin
    """
