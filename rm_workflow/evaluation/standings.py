"""The leaderboard as rows: every scored checkpoint with interval, rank and verdict, and what others have published.

Command line and report show these same rows.
"""

from collections.abc import Mapping
from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.models import TEST
from rm_workflow.catalog.published import PublishedScore, published_scores
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.contamination import UNKNOWN
from rm_workflow.evaluation.leaderboard import Rank, comparable, ranks
from rm_workflow.evaluation.progress import progress_bar
from rm_workflow.evaluation.promotion import selected_by

Rows = list[dict[str, Any]]
Checkpoints = Mapping[str, ScoredCheckpoint]


def listed_benchmarks(checkpoints: Checkpoints) -> list[str]:
    """Return the benchmarks with scores of ours or published ones, the test split first."""
    scored = {name for checkpoint in checkpoints.values() for name in checkpoint.scores}
    return sorted(scored | {row.benchmark for row in published_scores()}, key=lambda name: (name != TEST, name))


def standings(store: ArtifactStore, benchmark: str, checkpoints: Checkpoints) -> Rows:
    """Return CONTRACT's rows of one benchmark, best first, then those without a score, then published ones.

    Args:
        checkpoints: what ``scored_checkpoints`` returned.

    Raises:
        UserError: a benchmark that was scored is gone.
    """
    entries = {name: found for name, found in checkpoints.items() if benchmark in found.scores}
    placed = _ranks(store, benchmark, entries)
    rows = [_row(store, found, benchmark, placed.get(name)) for name, found in entries.items()]
    ordered = sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["checkpoint"]))
    return ordered + [_reference(row) for row in published_scores() if row.benchmark == benchmark]


def _row(store: ArtifactStore, checkpoint: ScoredCheckpoint, benchmark: str, rank: Rank | None) -> dict[str, Any]:
    headline = checkpoint.headline(benchmark)
    row = {
        "checkpoint": checkpoint.id,
        "recipe": checkpoint.recipe,
        "run": checkpoint.run,
        "benchmark": benchmark,
        **{key: headline[key] for key in ("score", "n", "ci_low", "ci_high", "contamination")},
        "rank": rank and rank.rank,
        "rank_low": rank and rank.low,
        "rank_high": rank and rank.high,
        "ranked_among": rank and rank.among,
        "published": False,
        "selected_among": selected_by(store, checkpoint.id).get(benchmark),
    }
    return row | ({"all_items": headline["all_items"]} if "all_items" in headline else {})


def _ranks(store: ArtifactStore, benchmark: str, entries: Checkpoints) -> dict[str, Rank]:
    if not entries:
        return {}
    rows = {name: found.rows(store, benchmark) for name, found in entries.items()}
    placed: dict[str, Rank] = {}
    with progress_bar(f"ranks on {benchmark}") as progress:
        for names in comparable(rows):
            leaked = {item for name in names for item in entries[name].leaked(benchmark)}
            placed |= ranks({name: rows[name] for name in names}, leaked, progress)
    return placed


def _reference(row: PublishedScore) -> dict[str, Any]:
    """Return what others have published, without interval: their item scores are not known."""
    return {
        "checkpoint": row.checkpoint,
        "recipe": None,
        "run": None,
        "benchmark": row.benchmark,
        "score": row.score,
        **dict.fromkeys(("n", "ci_low", "ci_high")),
        "contamination": UNKNOWN,
        **dict.fromkeys(("rank", "rank_low", "rank_high", "ranked_among")),
        "published": True,
        "selected_among": None,
        "source": row.source,
        "note": row.told_note,
    }
