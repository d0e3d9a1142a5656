"""Drop or mark pairs of the same two responses whose labels are opposed: one row prefers A to B, another B to A.

Compared within the pair set, after ``exact_duplicate``. With ``keep: none`` all of them are dropped; with ``keep:
majority`` the label that more rows give stays once it is ahead, and of equal numbers none. Duplicates count as votes
only where ``exact_duplicate`` is not among the rules before. With ``keep: marked`` all stay, and the column ``marks``
names the rule.

contradictory: {keep: none}

    keeps   A > B, where no row says B > A
    drops   A > B and B > A
"""

from typing import Annotated, Literal

from pydantic import Field

from rm_workflow.preferences.rules import RuleParameters

NEEDS_SCORES = False


class Parameters(RuleParameters):
    """``keep``: what stays of a contradiction."""

    keep: Annotated[Literal["none", "majority", "marked"], Field(description="none, majority or marked")] = "none"


def marks(parameters: Parameters) -> bool:
    """Return whether contradicted pairs stay and are marked."""
    return parameters.keep == "marked"


def sql(parameters: Parameters) -> str:
    """Select the candidates that are contradicted by as many or more rows, or by any."""
    outvoted = "opposed.votes >= mine.votes" if parameters.keep == "majority" else "true"
    return f"""
        -- contradictory: no row labels the same two responses the other way (keep: {parameters.keep})
        with labels as (
            select prompt_id, chosen_id, rejected_id, count(*) as votes, min(pair_id) as pair_id
            from candidates
            group by prompt_id, chosen_id, rejected_id
        )
        select
            candidates.pair_id, 'the same two responses are labelled the other way round' as reason,
            opposed.pair_id as detail
        from candidates
        join labels mine using (prompt_id, chosen_id, rejected_id)
        join labels opposed
            on opposed.prompt_id = mine.prompt_id and opposed.chosen_id = mine.rejected_id
            and opposed.rejected_id = mine.chosen_id
        where mine.chosen_id <> mine.rejected_id and {outvoted}
    """
