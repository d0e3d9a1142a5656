"""Scored checkpoints on the items of a benchmark that all have and that leaked to none."""

from collections.abc import Sequence
from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.evaluation import stored
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.compare import Comparison, parts_of
from rm_workflow.evaluation.figures import Parts
from rm_workflow.evaluation.seeds import SeedsComparison


def compare_runs(store: ArtifactStore, a: ScoredCheckpoint, b: ScoredCheckpoint, benchmark: str) -> dict[str, Any]:
    """Return the figures of A minus B, see ``Comparison.figures``.

    Raises:
        UserError: one was not scored on the benchmark, or they have no item in common.
    """
    of_a, of_b = _on_common_items(store, [a, b], benchmark)
    return Comparison(of_a, of_b).figures()


def compare_seeds_of(
    store: ArtifactStore, a: Sequence[ScoredCheckpoint], b: Sequence[ScoredCheckpoint], benchmark: str
) -> dict[str, Any]:
    """Return the figures of A's seeds minus B's, see ``SeedsComparison.figures``.

    Raises:
        UserError: one was not scored on the benchmark, they have no item in common, or a side has one seed only.
    """
    found = _on_common_items(store, [*a, *b], benchmark)
    return SeedsComparison(found[: len(a)], found[len(a) :]).figures()


def _on_common_items(store: ArtifactStore, checkpoints: Sequence[ScoredCheckpoint], benchmark: str) -> list[Parts]:
    for checkpoint in checkpoints:
        if benchmark not in checkpoint.scores or benchmark not in checkpoint.scores[benchmark].facts["scores"]:
            raise UserError(f"{checkpoint.id} was not scored on {benchmark}")
    clean = [checkpoint.rows(store, benchmark).without(checkpoint.leaked(benchmark)) for checkpoint in checkpoints]
    joined = [stored.join(clean[0], other, benchmark).names for other in clean[1:]]
    common = sorted(set(joined[0]).intersection(*joined[1:]))
    return [parts_of(rows.scoring, rows.only(common)) for rows in clean]
