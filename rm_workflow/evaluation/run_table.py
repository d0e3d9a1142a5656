"""The table of a sweep's runs: what each was trained with, how it scored, and how far seeds move that.

Its columns are those of the RewardBench 2 models' card: revision, training data, learning rate, epochs, score, and the
score of each domain; here each has its interval.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Recipe
from rm_workflow.evaluation.checkpoint_scores import checkpoint_of
from rm_workflow.evaluation.contamination import UNKNOWN

# What tells the runs of a sweep apart, in the order of the columns.
SETTINGS = ("data", "base", "learning_rate", "epochs", "seed")
SCORED, MISSING, RETIRED = "scored", "not scored", "retired"
INTERVAL = ("score", "n", "ci_low", "ci_high")
# Parts of a benchmark's result that are score objects by name, the first that is there.
PARTS = ("subsets", "sections", "domains", "per_source")
# More parts than this are no columns of a table.
MOST_PARTS = 8

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run of a sweep, or the one run of a recipe without a sweep.

    Attributes:
        key: its partition, or the recipe's name.
        settings: values of ``SETTINGS``; empty for a retired run, whose settings nobody lists any more.
        scores: its newest scores artifact, or None.
    """

    key: str
    settings: Mapping[str, Any]
    scores: Artifact | None
    is_retired: bool = False

    @property
    def checkpoint(self) -> str | None:
        """Return ``asset@version`` of the checkpoint that was scored."""
        return checkpoint_of(self.scores) if self.scores else None

    @property
    def state(self) -> str:
        """Return whether there are scores, and whether the run is made no more."""
        if self.is_retired:
            return RETIRED
        return SCORED if self.scores else MISSING

    def headline(self, benchmark: str) -> Mapping[str, Any]:
        """Return the score object of a benchmark with its verdict; empty where there is none."""
        found: Mapping[str, Any] = self.scores.facts["scores"].get(benchmark, {}) if self.scores else {}
        return {"contamination": UNKNOWN, **found} if found else {}

    def parts(self, benchmark: str) -> dict[str, Mapping[str, Any]]:
        """Return the score objects of a benchmark's subsets, sections or domains, by name."""
        if self.scores is None:
            return {}
        result = json.loads(self.scores.file("scores.json").read_text("utf-8")).get(benchmark, {})
        found: Mapping[str, Any] = next((result[name] for name in PARTS if result.get(name)), {})
        scored = {name: part for name, part in found.items() if isinstance(part, Mapping) and "score" in part}
        return scored if len(scored) <= MOST_PARTS else {}


def settings_of(recipe: Recipe, run: Recipe) -> dict[str, Any]:
    """Return what tells one run of a recipe from the others: values of ``SETTINGS``."""
    data = run.data_name.removeprefix(recipe.name).lstrip("_") or None
    base = next((name for name, base in (recipe.sweep.base if recipe.sweep else {}).items() if base == run.base), None)
    training = run.training
    return {
        "data": data,
        "base": base,
        "learning_rate": training.learning_rate,
        "epochs": training.epochs,
        "seed": training.seed,
    }


def newest_runs(store: ArtifactStore, recipe: Recipe) -> list[Run]:
    """Return the runs of a recipe, each with the scores that its asset's name stands for now."""
    asset = f"{recipe.name}_scores"
    if recipe.sweep is None:
        return [Run(recipe.name, settings_of(recipe, recipe), store.latest(asset))]
    return [
        Run(key, settings_of(recipe, run), store.latest(asset, partition=key))
        for key, run in sweeps.runs_of(recipe).items()
    ]


def run_rows(runs: Iterable[Run], benchmarks: Sequence[str]) -> dict[str, list[Row]]:
    """Return by benchmark one row a run, best first, runs without a score last."""
    listed = list(runs)
    tables = {}
    for benchmark in benchmarks:
        rows = [_row(run, benchmark) for run in listed]
        tables[benchmark] = sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["run"]))
    return tables


def _row(run: Run, benchmark: str) -> Row:
    headline = run.headline(benchmark)
    return {
        "run": run.key,
        **{name: run.settings.get(name) for name in SETTINGS},
        **{name: headline.get(name) for name in (*INTERVAL, "contamination")},
        "parts": {
            name: {key: part.get(key) for key in INTERVAL} for name, part in sorted(run.parts(benchmark).items())
        },
        "state": run.state,
        "checkpoint": run.checkpoint,
    }


def flat_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a benchmark with parts as columns, the same in all: a run without scores has them too."""
    names = sorted({name for row in rows for name in row["parts"]})
    flat = []
    for row in rows:
        shown = {key: value for key, value in row.items() if key not in ("parts", "state", "checkpoint")}
        parts = {name: row["parts"].get(name, {}).get("score") for name in names}
        flat.append({**shown, **parts, "state": row["state"], "checkpoint": row["checkpoint"]})
    return flat


def seed_rows(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each set of runs that differ by their seed alone, best mean first.

    The interval is that of the mean over seeds (Student's t), for one and the same set of items; that of each run tells
    how far other items would move it. Seeds that all score the same have none: they do not say how far another would
    differ.

    Args:
        rows: rows of one benchmark, see ``run_rows``.
    """
    from scipy.stats import t

    by_settings: dict[str, list[Row]] = {}
    for row in rows:
        if row["score"] is not None and row["seed"] is not None:
            key = json.dumps([row[name] for name in SETTINGS if name != "seed"])
            by_settings.setdefault(key, []).append(row)
    found = []
    for same in by_settings.values():
        scores = [row["score"] for row in same]
        if len(scores) < 2:
            continue
        spread = stdev(scores)
        half = float(t.ppf(0.975, len(scores) - 1)) * spread / math.sqrt(len(scores)) if spread else None
        found.append(
            {
                **{name: same[0][name] for name in SETTINGS if name != "seed"},
                "seeds": len(scores),
                "mean": mean(scores),
                "sd": spread,
                "ci_low": None if half is None else mean(scores) - half,
                "ci_high": None if half is None else mean(scores) + half,
                "lowest": min(scores),
                "highest": max(scores),
            }
        )
    return sorted(found, key=lambda row: -row["mean"])
