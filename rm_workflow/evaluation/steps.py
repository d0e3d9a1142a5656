"""Scores of the steps of a solution: one score from many, where steps end, and how well they tell right from wrong."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from rm_workflow.evaluation.best_of_n import AGGREGATORS, aggregated
from rm_workflow.evaluation.statistics import Floats, bootstrap_sums, figure_interval, score_object, variance_of
from rm_workflow.preferences.adapters._steps import step_ends as ends_by_separator

# What stands for a solution where one score is asked for: the mean of its steps, as RLHFlow's evaluator takes it.
AGGREGATOR = "mean"
RIGHT_FROM = 0.5


def aggregate(scores: Sequence[float] | Floats, aggregator: str = AGGREGATOR) -> float:
    """Return one score from those of the steps; of a model with one score that score."""
    return float(aggregated(np.asarray(scores, dtype=np.float64), np.array([len(scores)]), aggregator)[0])


def step_ends(text: str) -> list[int]:
    """Return where the steps of a solution end that nobody marked: its paragraphs, or its lines where it has one alone.

    >>> step_ends("Step 1: 2 + 3 = 5.\\nStep 2: 5 - 1 = 4.")
    [18, 37]
    """
    return ends_by_separator(text, "\n\n" if "\n\n" in text.strip() else "\n") or []


def step_accuracy(labels: Floats, scores: Floats, groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return how well scores of steps tell right from wrong ones: ``score`` is the mean of both classes' accuracy.

    Labels are mostly right (9 to 1 in published sets), so that plain accuracy rewards a model that says so always. A
    label counts as right from 0.5 on, a score as saying so likewise.

    Args:
        labels: [steps] probabilities that a step is right.
        scores: [steps] what the model says.
        groups: [steps] what stays together in the interval: the problem.

    Returns:
        a score object of at least one step; ``score`` is None where a class is absent; and ``right``, ``wrong``:
        {"accuracy" or None, "n"} of each class, ``accuracy`` of all.
    """
    is_right, says_right = labels >= RIGHT_FROM, scores >= RIGHT_FROM
    hits = (is_right == says_right).astype(np.float64)
    classes = {"right": is_right, "wrong": ~is_right}
    by_class = {
        name: {"accuracy": float(hits[rows].mean()) if rows.any() else None, "n": int(rows.sum())}
        for name, rows in classes.items()
    }
    ties = int((scores == RIGHT_FROM).sum())
    beside = {**by_class, "accuracy": float(hits.mean())}
    if not (is_right.any() and (~is_right).any()):
        return {"score": None, "n": len(hits), "ci_low": None, "ci_high": None, "ties": ties, **beside}
    score = float(np.mean([hits[rows].mean() for rows in classes.values()]))
    _, index = np.unique([str(group) for group in groups], return_inverse=True)
    columns = [np.bincount(index, weights=w) for rows in classes.values() for w in (hits * rows, rows)]
    table = np.stack(columns, axis=1).astype(np.float64)
    sums = bootstrap_sums(table[np.lexsort(table.T)], "steps")
    with np.errstate(invalid="ignore"):
        draws = (sums[:, 0] / sums[:, 1] + sums[:, 2] / sums[:, 3]) / 2
    interval = figure_interval(score, variance_of(draws, len(table)), len(table), len(hits))
    return {**score_object(score, len(hits), interval, ties), **beside}


__all__ = ["AGGREGATOR", "AGGREGATORS", "aggregate", "step_accuracy", "step_ends"]
