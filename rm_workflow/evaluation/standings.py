"""The leaderboard as rows: every scored checkpoint with interval, rank and verdict, and what others have published.

Command line and report show these same rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.models import TEST
from rm_workflow.catalog.published import PublishedScore, published_scores
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.contamination import UNKNOWN
from rm_workflow.evaluation.leaderboard import FEWEST_ITEMS, Rank, comparable, num_independent, ranks
from rm_workflow.evaluation.progress import progress_bar
from rm_workflow.evaluation.promotion import selected_by
from rm_workflow.keys import content_id

Rows = list[dict[str, Any]]
Checkpoints = Mapping[str, ScoredCheckpoint]
SHOWN_DIGITS = 8  # of the id of a set of items


def listed_benchmarks(checkpoints: Checkpoints) -> list[str]:
    """Return the benchmarks with scores of ours or published ones, the test split first."""
    scored = {name for checkpoint in checkpoints.values() for name in checkpoint.scores}
    return sorted(scored | {row.benchmark for row in published_scores()}, key=lambda name: (name != TEST, name))


@dataclass(frozen=True)
class ItemSet:
    """Checkpoints of one benchmark that have the same items.

    Attributes:
        id: of these items.
        ranks: of those that are ranked.
        num_independent: independent items of each that did not leak to it, nor to any other that might have a rank.
    """

    id: str
    names: Sequence[str]
    ranks: Mapping[str, Rank]
    num_independent: Mapping[str, int]


def standings(store: ArtifactStore, benchmark: str, checkpoints: Checkpoints) -> Rows:
    """Return CONTRACT's rows of one benchmark, those with the same items together, then published ones.

    Within a set of items those with a rank stand first, best first, then those of too few items, then those without a
    score. ``boards`` cuts the rows into these sets.

    Args:
        checkpoints: what ``scored_checkpoints`` returned.

    Raises:
        UserError: a benchmark that was scored is gone.
    """
    entries = {name: found for name, found in checkpoints.items() if benchmark in found.scores}
    rows: Rows = []
    for items in _item_sets(store, benchmark, entries):
        own = [_row(store, entries[name], benchmark, items) for name in items.names]
        rows += sorted(own, key=_order)
    return rows + [_reference(row) for row in published_scores() if row.benchmark == benchmark]


def boards(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Rows]:
    """Return heading -> rows with the same items, of the rows of ``standings``; published ones join the first.

    Scores on other items do not compare: each mixture has a test split of its own, and a benchmark has revisions.
    """
    of_sets: dict[str, Rows] = {}
    for row in rows:
        of_sets.setdefault(row["item_set"] or next(iter(of_sets), ""), []).append(dict(row))
    if benchmark != TEST and len(of_sets) == 1:
        return {benchmark: of_sets.popitem()[1]}
    return {_heading(benchmark, item_set, found): found for item_set, found in of_sets.items()}


def _heading(benchmark: str, item_set: str, rows: Rows) -> str:
    mixtures = ", ".join(sorted({row["items_of"] for row in rows if row["items_of"]}))
    split = f": split of {mixtures}" if benchmark == TEST else ""
    return f"{benchmark}{split} (items {item_set[:SHOWN_DIGITS]})"


def _order(row: Mapping[str, Any]) -> tuple[bool, bool, float, str]:
    return row["score"] is None, row["too_few_items"], -(row["score"] or 0.0), row["checkpoint"]


def _row(store: ArtifactStore, checkpoint: ScoredCheckpoint, benchmark: str, items: ItemSet) -> dict[str, Any]:
    headline = checkpoint.headline(benchmark)
    rank = items.ranks.get(checkpoint.id)
    independent = items.num_independent[checkpoint.id]
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
        "item_set": items.id,
        "items_of": checkpoint.items_of(benchmark),
        "num_independent": independent,
        "too_few_items": independent < FEWEST_ITEMS,
        "published": False,
        "selected_among": selected_by(store, checkpoint.id).get(benchmark),
    }
    return row | ({"all_items": headline["all_items"]} if "all_items" in headline else {})


def _item_sets(store: ArtifactStore, benchmark: str, entries: Checkpoints) -> list[ItemSet]:
    """Return the sets of items with the ranks on each; what leaked to one that has a rank decides none."""
    if not entries:
        return []
    rows = {name: found.rows(store, benchmark) for name, found in entries.items()}
    leaked = {name: found.leaked(benchmark) for name, found in entries.items()}
    independent = {name: num_independent(rows[name].without(leaked[name])) for name in entries}
    found = []
    with progress_bar(f"ranks on {benchmark}") as progress:
        for names in comparable(rows):
            enough = {name: rows[name] for name in names if independent[name] >= FEWEST_ITEMS}
            left_out = {item for name in enough for item in leaked[name]}
            compared = {name: num_independent(rows[name].without(left_out)) for name in enough}
            item_set = content_id(["items", rows[names[0]].scoring, sorted(rows[names[0]].rows)])
            of_each = {name: compared.get(name, independent[name]) for name in names}
            found.append(ItemSet(item_set, names, ranks(enough, left_out, progress), of_each))
    return found


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
        **dict.fromkeys(("rank", "rank_low", "rank_high", "ranked_among", "item_set", "items_of", "num_independent")),
        "too_few_items": False,
        "published": True,
        "selected_among": None,
        "source": row.source,
        "note": row.told_note,
    }
