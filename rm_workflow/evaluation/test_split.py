"""Accuracy on a mixture's own test split, beside what reply length alone would reach."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rm_workflow.errors import UserError
from rm_workflow.evaluation.judged_pairs import margin_scores


@dataclass(frozen=True)
class ScoredPairs:
    """Test pairs with their scores; all sequences have one entry a pair.

    Attributes:
        pair_ids: names a pair in an error.
        groups: what stays together in the interval.
        chosen_lengths, rejected_lengths: of the replies, in any one unit.
    """

    pair_ids: Sequence[str]
    score_chosen: Sequence[float | None]
    score_rejected: Sequence[float | None]
    sources: Sequence[str]
    groups: Sequence[Hashable]
    chosen_lengths: Sequence[int]
    rejected_lengths: Sequence[int]

    def without(self, pair_ids: Iterable[str]) -> "ScoredPairs":
        """Return all other pairs."""
        left_out = set(pair_ids)
        kept = [place for place, pair_id in enumerate(self.pair_ids) if pair_id not in left_out]
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return ScoredPairs(**{name: [values[place] for place in kept] for name, values in columns.items()})


def read_pairs(path: Path) -> ScoredPairs:
    """Return the test pairs of a scores artifact (``test_pairs.parquet``)."""
    table = pq.read_table(path).to_pydict()
    return ScoredPairs(
        pair_ids=table["pair_id"],
        score_chosen=table["score_chosen"],
        score_rejected=table["score_rejected"],
        sources=table["source"],
        groups=table["group_id"],
        chosen_lengths=table["chosen_length"],
        rejected_lengths=table["rejected_length"],
    )


def summarise(pairs: ScoredPairs) -> dict[str, Any]:
    """Return the ``test`` object: overall and, under ``per_source``, the same for each source.

    ``score`` is strict accuracy (a tie is a loss) with its interval, clustered by group; ``accuracy_ties_half`` and
    ``mean_margin`` stand beside it. ``pick_longer`` and ``pick_shorter`` are the accuracies, as plain fractions, of
    choosing the longer or the shorter reply without reading it. Replies of one length count one half in both, so that
    the two add up to 1.

    Raises:
        UserError: there is no pair, or a score is missing, NaN or infinite; the first such pair is named.
    """
    margins = _finite(pairs, pairs.score_chosen) - _finite(pairs, pairs.score_rejected)
    longer = np.sign(np.asarray(pairs.chosen_lengths) - np.asarray(pairs.rejected_lengths)) / 2 + 0.5
    if not len(margins):
        raise UserError(
            "the test split has no pair to score; give the mixture a test share or take 'test' out of evaluate_on"
        )
    groups, sources = np.asarray(pairs.groups, dtype=object), np.asarray(pairs.sources, dtype=object)

    def of(rows: Any) -> dict[str, Any]:
        pick_longer = float(longer[rows].mean())
        nulls = {"pick_longer": pick_longer, "pick_shorter": 1 - pick_longer}
        return {**margin_scores(margins[rows], list(groups[rows])), **nulls}

    per_source = {str(name): of(sources == name) for name in sorted(set(pairs.sources))}
    return {**of(slice(None)), "per_source": per_source}


def margin_histogram(margins: Sequence[float], bins: int = 30) -> dict[str, list[float]]:
    """Return ``edges`` (bins + 1) and ``counts`` (bins) of score_chosen - score_rejected."""
    counts, edges = np.histogram(np.asarray(margins, dtype=np.float64), bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _finite(pairs: ScoredPairs, scores: Sequence[float | None]) -> Any:
    values = np.array([np.nan if score is None else score for score in scores], dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"test pair {pairs.pair_ids[row]} (row {row + 1}) has the score {scores[row]}; a score must be a "
            "finite number, so the checkpoint is broken"
        )
    return values
