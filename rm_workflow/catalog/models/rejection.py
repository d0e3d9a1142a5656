"""The replies that a checkpoint chooses among, for the next round of a policy."""

from typing import Annotated

from pydantic import Field

from rm_workflow.catalog.models.entry import Entry, Name, Positive


class RejectionSampling(Entry):
    """Rejection sampling (RAFT, arXiv 2304.06767): the checkpoint ranks candidates, the choice is data for TRL.

    Attributes:
        candidates: a source whose prompts have several responses in its train files, as a policy's samples have; what
            it says of them (ratings, labels) is not read.
        n: at most so many candidates of a prompt, chosen by a keyed hash; null takes all.
        num_prompts: so many prompts, chosen by a keyed hash; null takes all.
        min_gap: of a DPO row: the best reward must be more than this above the worst one.
        seed: of both choices.
    """

    candidates: Name
    n: Annotated[int, Field(ge=2)] | None = None
    num_prompts: Positive | None = None
    min_gap: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0
