"""Drop the pairs of a prompt that go round in a circle: A over B, B over C, C over A.

No reward can be right on all of them. Every pair of the circle is dropped, as none of them is the wrong one more than
the others; pairs that lead into it or out of it stay. A circle of two is ``contradictory``'s, which stands before.

    keeps   A > B, B > C, A > C
    drops   A > B, B > C, C > A
"""

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False


class Parameters(RuleParameters):
    """This rule takes none."""


def sql(parameters: Parameters) -> str:
    """Select the candidates whose rejected response is, over other pairs, preferred to the chosen one."""
    return """
        -- cycle: no way leads from the rejected response back to the chosen one
        with recursive edges as (
            select distinct prompt_id, chosen_id, rejected_id from candidates where chosen_id <> rejected_id
        ),
        beaten as (
            select prompt_id, chosen_id as better, rejected_id as worse from edges
            union
            select prompt_id, better, edges.rejected_id
            from beaten join edges using (prompt_id)
            where edges.chosen_id = worse
        )
        select
            pair_id, 'its prompt prefers responses in a circle' as reason, null::varchar as detail
        from candidates semi join beaten
            on beaten.prompt_id = candidates.prompt_id
            and better = candidates.rejected_id and worse = candidates.chosen_id
        where candidates.chosen_id <> candidates.rejected_id
    """
