"""What a reward owes to length, and whether it depends on the side that a reply stands on.

Lengths are characters of the replies. The nulls choose by length alone, on benchmarks under the benchmark's very rule
(reward-bench#267 and #268 show subsets on which that gets all items right), on the test split with a coin for ties.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rm_workflow.errors import UserError
from rm_workflow.evaluation import benchmarks as rules
from rm_workflow.evaluation.items import ScoredItem
from rm_workflow.evaluation.statistics import Floats, accuracy_with_interval
from rm_workflow.evaluation.stored import rows_of_items
from rm_workflow.keys import canonical_json

Scores = dict[str, Any]
SCORE_KEYS = ("score", "n", "ci_low", "ci_high", "ties")


def length_figures(
    score_chosen: Floats,
    score_rejected: Floats,
    chosen_lengths: Floats,
    rejected_lengths: Floats,
    groups: Sequence[Hashable] | None = None,
) -> Scores:
    """Return accuracy by which side is longer, and how margins and rewards go with length.

    Returns:
        ``chosen_longer`` and ``chosen_shorter`` (score objects, null where there is no such pair), ``num_equal`` (pairs
        of one length), ``spearman_margin_length`` (margin with difference of lengths), ``spearman_reward_length`` (over
        all replies). A correlation is null where either side is constant.
    """
    margins, longer = score_chosen - score_rejected, chosen_lengths - rejected_lengths

    def accuracy(rows: Any) -> Scores | None:
        if not rows.any():
            return None
        kept = margins[rows]
        own = None if groups is None else [group for group, chosen in zip(groups, rows, strict=True) if chosen]
        return accuracy_with_interval(kept > 0, own, int(np.sum(kept == 0)))

    return {
        "chosen_longer": accuracy(longer > 0),
        "chosen_shorter": accuracy(longer < 0),
        "num_equal": int(np.sum(longer == 0)),
        "spearman_margin_length": spearman(margins, longer),
        "spearman_reward_length": spearman(
            np.concatenate([score_chosen, score_rejected]), np.concatenate([chosen_lengths, rejected_lengths])
        ),
    }


def spearman(first: Floats, second: Floats) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank, or None where one side is constant."""
    from scipy.stats import rankdata

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def split_nulls(chosen_lengths: Floats, rejected_lengths: Floats, groups: Sequence[Hashable]) -> Scores:
    """Return what choosing by length reaches on the test split; of two replies of one length a coin picks one."""
    longer = np.sign(chosen_lengths - rejected_lengths) / 2 + 0.5
    ties = int(np.sum(longer == 0.5))
    return {
        "pick_longer": accuracy_with_interval(longer, groups, ties),
        "pick_shorter": accuracy_with_interval(1 - longer, groups, ties),
    }


def benchmark_nulls(scoring: str, lengths: Mapping[str, ScoredItem]) -> Scores:
    """Return what choosing by length reaches on a benchmark under its own rule; null where the rule gives no score.

    Args:
        lengths: the items with lengths of replies as their scores.
    """
    return {
        "pick_longer": _null(scoring, lengths, 1.0),
        "pick_shorter": _null(scoring, lengths, -1.0),
    }


def _null(scoring: str, lengths: Mapping[str, ScoredItem], sign: float) -> Scores | None:
    seen: set[str] = set()
    scored = {}
    for name, item in lengths.items():
        known = canonical_json([item.subset, item.meta.get("id")])
        # Items that share an id may have replies of the same lengths, and a row that stands there twice is refused.
        meta = {**item.meta, "id": name} if known in seen else item.meta
        seen.add(known)
        scored[name] = replace(item, scores=[sign * length for length in item.scores], meta=meta)
    rule = rules.rule(scoring)
    try:
        found = rule.headline(rule.aggregate(list(rows_of_items(scoring, scored).rows.values())))
    except UserError:  # lengths that the rule cannot score, for instance where all are equal
        return None
    return {key: found[key] for key in SCORE_KEYS} if found else None


def flip_test(score_chosen: Floats, score_rejected: Floats) -> Scores:
    """Swap the sides of every pair under the rule of pairs: accuracy must become 1 - accuracy - ties.

    It fails where a score is not a number, or where a rule looks at the side.
    """
    n = len(score_chosen)
    rule = rules.rule("pairs")
    accuracy, flipped = (
        rule.aggregate(
            [
                {"score_chosen": float(chosen), "score_rejected": float(rejected)}
                for chosen, rejected in zip(*sides, strict=True)
            ]
        )
        for sides in ((score_chosen, score_rejected), (score_rejected, score_chosen))
    )
    ties = accuracy["ties"] / n
    return {
        "accuracy": accuracy["score"],
        "flipped": flipped["score"],
        "ties": ties,
        "holds": bool(abs(1 - accuracy["score"] - ties - flipped["score"]) < 1e-9),
    }
