"""Does a benchmark tell how good a reward model is at its work? Its score against best-of-n with gold labels.

Each checkpoint of a sweep is a point: how it scores on a benchmark or one of its domains, and how often the solution
is right that it picks among n candidates (``gold``). RewardBench 2 is shown to be worth something that way, by how its
domains correlate with best-of-n and PPO over many reward models (arXiv 2506.01937).

The interval is of the bootstrap: checkpoints and the problems of the gold set are both drawn with replacement, and its
2.5 and 97.5 percentiles are told. Other items of the benchmark would move its scores too; that is not in it. A draw in
which a side is the same for all checkpoints has no correlation and is left out.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.errors import UserError
from rm_workflow.evaluation.best_of_n import expected_best
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.items import Row
from rm_workflow.evaluation.run_table import Run
from rm_workflow.evaluation.statistics import Floats
from rm_workflow.evaluation.stored import StoredRows

DRAWS = 4000
# Two or three points lie on a line by chance; of fewer than ten a correlation of 0.6 is no surprise (its 95 % interval
# by Fisher's z then reaches 0).
LEAST_FOR_AN_INTERVAL, LEAST_TO_TELL = 4, 10
OVERALL = "overall"
TOO_FEW, CONSTANT = "too few runs to tell", "the same for all runs"
SAME, OPPOSITE, NEITHER = "ranks runs alike", "ranks runs the other way round", "not distinguishable from no relation"
METHODS = ("spearman", "pearson")
# Spread of figures that are equal but for rounding, beside their size.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Point:
    """One checkpoint.

    Attributes:
        scores: (benchmark, ``overall`` or the name of a domain) -> score.
        gold: problem -> how often the candidate that the checkpoint picks among n is right, in [0, 1].
    """

    run: str
    checkpoint: str
    scores: Mapping[tuple[str, str], float]
    gold: Mapping[str, float]


def points_of(
    store: ArtifactStore, runs: Sequence[Run], benchmarks: Sequence[str], gold: str, n: int | None
) -> list[Point]:
    """Return the checkpoints of the runs that were scored on the gold set.

    Problems that leaked to one of the checkpoints are left out for all.

    Args:
        n: candidates among which a checkpoint picks; None: as many as each problem has.

    Raises:
        UserError: the stored scores are damaged, or a problem has fewer candidates than n.
    """
    scored = [(run, _stored(run, gold)) for run in runs if run.headline(gold)]
    leaked = {name for _, checkpoint in scored for name in checkpoint.leaked(gold)}
    found = []
    for run, checkpoint in scored:
        rows: StoredRows = checkpoint.rows(store, gold).without(leaked)
        picked = {name: picked_right(row, n, name) for name, row in rows.rows.items()}
        found.append(Point(run.key, checkpoint.id, _scores(run, [name for name in benchmarks if name != gold]), picked))
    return found


def picked_right(row: Row, n: int | None, name: str) -> float:
    """Return how often the best of n candidates is right, over all subsets of n, ties shared.

    Raises:
        UserError: the problem has fewer candidates.
    """
    candidates = row["candidates"]
    if n is not None and n > len(candidates):
        raise UserError(
            f"sweep.transfer.n is {n}, and problem {name} of the gold set has {len(candidates)} candidates; lower it"
        )
    # Of step scores the mean, as in the headline of best-of-n.
    scores = [one["score"] if "score" in one else float(np.mean(one["step_scores"])) for one in candidates]
    right = [float(one["correct"]) for one in candidates]
    return float(expected_best(np.array([scores]), np.array([right]), [n or len(candidates)])[0, 0])


def fewest_candidates(gold: Path) -> int:
    """Return how many candidates the problem with the fewest has, of the folder of a gold set."""
    items = pq.read_table(gold / "items.parquet", columns=["response_ids"])
    return int(pc.min(pc.list_value_length(items["response_ids"])).as_py())


def transfer_rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return a row for each benchmark and domain that was scored: how it goes with best-of-n over the checkpoints.

    Returns:
        ``benchmark``, ``figure``, ``n`` (checkpoints with both), ``problems`` of the gold set, of each method
        (``spearman``, ``pearson``) the correlation with ``.._low`` and ``.._high`` (null where it has no value or too
        few checkpoints are there), and ``verdict`` by Spearman's.
    """
    figures = dict.fromkeys(figure for point in points for figure in point.scores)
    return [_row(*figure, [point for point in points if figure in point.scores]) for figure in figures]


def gold_accuracy(point: Point) -> float:
    """Return the share of problems that a checkpoint gets right."""
    return float(np.mean(list(point.gold.values())))


def _row(benchmark: str, figure: str, points: Sequence[Point]) -> dict[str, Any]:
    problems = sorted(set.intersection(*(set(point.gold) for point in points)))
    scores = np.array([point.scores[benchmark, figure] for point in points])
    gold = np.array([[point.gold[name] for name in problems] for point in points])
    whole = {name: found for name, (found,) in _correlations(scores[None], gold.mean(axis=1)[None]).items()}
    bounds: dict[str, tuple[float, float] | None] = dict.fromkeys(METHODS)
    if len(points) >= LEAST_FOR_AN_INTERVAL:
        bounds = _intervals(scores, gold, f"{benchmark} {figure}")
    told: dict[str, Any] = {}
    for method in METHODS:
        low, high = bounds[method] or (None, None)
        value = None if np.isnan(whole[method]) else float(whole[method])
        told |= {method: value, f"{method}_low": low, f"{method}_high": high}
    verdict = _verdict(len(points), told["spearman"], bounds["spearman"])
    return {
        "benchmark": benchmark,
        "figure": figure,
        "n": len(points),
        "problems": len(problems),
        **told,
        "verdict": verdict,
    }


def _intervals(scores: Floats, gold: Floats, stream: str) -> dict[str, tuple[float, float] | None]:
    """Return percentiles over draws of checkpoints and problems.

    Args:
        scores: shape [checkpoints].
        gold: shape [checkpoints, problems].
    """
    generator = np.random.default_rng(zlib.crc32(stream.encode()))
    num_points, num_problems = gold.shape
    times = generator.multinomial(num_problems, np.full(num_problems, 1 / num_problems), DRAWS)
    drawn = generator.integers(0, num_points, (DRAWS, num_points))
    accuracies = np.take_along_axis(times @ gold.T / num_problems, drawn, axis=1)
    found = _correlations(scores[drawn], accuracies)
    return {method: _percentiles(values) for method, values in found.items()}


def _percentiles(values: Floats) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _correlations(left: Floats, right: Floats) -> dict[str, Floats]:
    """Return the correlations of each row, NaN where a side of it has no spread; shape [rows, n] -> [rows]."""
    # Definitions load this module, and scipy.stats takes a second.
    from scipy.stats import rankdata

    ranks = (rankdata(side, axis=1) for side in (_rounded(left), _rounded(right)))
    return {"spearman": _pearson(*ranks), "pearson": _pearson(left, right)}


def _rounded(values: Floats) -> Floats:
    """Return values in which those that differ by rounding alone are equal, so that they share a rank."""
    return np.round(values, 12)


def _pearson(left: Floats, right: Floats) -> Floats:
    left, right = (side - side.mean(axis=1, keepdims=True) for side in (left, right))
    spreads = [np.sqrt((side**2).sum(axis=1)) for side in (left, right)]
    has_none = (spreads[0] <= ROUNDING) | (spreads[1] <= ROUNDING)
    product = np.where(has_none, 1.0, spreads[0] * spreads[1])
    found: Floats = np.where(has_none, np.nan, np.clip((left * right).sum(axis=1) / product, -1.0, 1.0))
    return found


def _verdict(num_points: int, value: float | None, bounds: tuple[float, float] | None) -> str:
    if num_points < LEAST_TO_TELL:
        return TOO_FEW
    if value is None or bounds is None:
        return CONSTANT
    low, high = bounds
    if low > 0:
        return SAME
    return OPPOSITE if high < 0 else NEITHER


def _stored(run: Run, gold: str) -> ScoredCheckpoint:
    assert run.scores is not None, "a run with a headline has scores"
    return ScoredCheckpoint(run.checkpoint or "", {gold: run.scores})


def _scores(run: Run, benchmarks: Sequence[str]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for benchmark in benchmarks:
        parts = {OVERALL: run.headline(benchmark), **run.parts(benchmark)}
        found |= {
            (benchmark, name): float(part["score"]) for name, part in parts.items() if part.get("score") is not None
        }
    return found
