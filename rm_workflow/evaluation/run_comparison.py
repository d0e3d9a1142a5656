"""Two scored checkpoints on the items of a benchmark that both have and that leaked to neither."""

from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.compare import Comparison, parts_of


def compare_runs(store: ArtifactStore, a: ScoredCheckpoint, b: ScoredCheckpoint, benchmark: str) -> dict[str, Any]:
    """Return the figures of A minus B, see ``Comparison.figures``.

    Raises:
        UserError: one was not scored on the benchmark, or they have no item in common.
    """
    for side in (a, b):
        if benchmark not in side.scores or benchmark not in side.scores[benchmark].facts["scores"]:
            raise UserError(f"{side.id} was not scored on {benchmark}")
    clean = [side.rows(store, benchmark).without(side.leaked(benchmark)) for side in (a, b)]
    joined = stored.join(clean[0], clean[1], benchmark)
    of_a, of_b = (parts_of(side.scoring, side.only(joined.names)) for side in clean)
    return Comparison(of_a, of_b).figures()
