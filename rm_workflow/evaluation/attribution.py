"""What each part of a mixture earns or costs: the run on all parts against the runs without one of them.

Leave-one-out at the level of sources, as the data ablations of reward models are done (for instance arXiv 2410.18451).
Two runs of the same settings and seed are compared on the same items; the interval tells how far other items would move
the difference, and not how far another seed would. Where both sides have several seeds, a row of all of them stands
first, whose interval holds both (see ``seeds``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.models import Recipe
from rm_workflow.catalog.sweeps import ALL, left_out
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.compare import A_BETTER, B_BETTER, NEITHER
from rm_workflow.evaluation.run_comparison import compare_runs, compare_seeds_of
from rm_workflow.evaluation.run_table import SETTINGS, Run

EARNS, COSTS = "earns", "costs"
VERDICTS = {A_BETTER: EARNS, B_BETTER: COSTS, NEITHER: NEITHER}
OVERALL = "overall"
FIGURES = ("ci_low", "ci_high", "p_value", "n")
OTHER_SETTINGS = tuple(name for name in SETTINGS if name != "data")


def earned_by_parts(
    store: ArtifactStore, recipe: Recipe, runs: Sequence[Run], benchmarks: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what each part of the mixture of a leave-one-out sweep earns; nothing for another recipe."""
    names = dict.fromkeys(str(run.settings["data"]) for run in runs if run.settings.get("data"))
    lacking = {name: part for name in names if (part := left_out(recipe, name))}
    return attribution_rows(store, runs, lacking, benchmarks)


def attribution_rows(
    store: ArtifactStore, runs: Sequence[Run], lacking: Mapping[str, str], benchmarks: Iterable[str]
) -> list[dict[str, Any]]:
    """Return rows for each part that is left out, benchmark and figure of it: what the part ``earns``.

    Args:
        runs: of a leave-one-out sweep, with or without scores.
        lacking: name of the data -> part that it lacks.
        benchmarks: that the runs were scored on.

    Returns:
        ``part``, the settings of both runs (``seed`` is None in a row of several), ``seeds`` that were compared,
        ``benchmark``, ``figure`` (``overall``, a section or a subset), ``earns`` (score with the part minus score
        without it) with ``ci_low``, ``ci_high``, ``p_value`` (Holm within the sections and subsets of a benchmark),
        ``n`` and ``verdict``. Runs without a common item have one row, whose verdict says why.
    """
    listed = list(benchmarks)
    with_all = {_others(run): run for run in runs if run.settings.get("data") == ALL and run.scores}
    rows = []
    for part, pairs in _pairs(runs, with_all, lacking).items():
        for same in _by_settings(pairs):
            for benchmark in listed:
                rows += _rows(store, part, same, benchmark)
    return rows


RunPair = tuple[Run, Run]  # on all parts, and without one


def _pairs(
    runs: Sequence[Run], with_all: Mapping[tuple[Any, ...], Run], lacking: Mapping[str, str]
) -> dict[str, list[RunPair]]:
    """Return the runs without a part beside the run of the same settings and seed on all parts, by part."""
    found: dict[str, list[RunPair]] = {}
    for run in runs:
        part, whole = lacking.get(str(run.settings.get("data"))), with_all.get(_others(run))
        if part is not None and whole is not None and run.scores is not None:
            found.setdefault(part, []).append((whole, run))
    return found


def _by_settings(pairs: Sequence[RunPair]) -> list[list[RunPair]]:
    """Return the pairs that differ by their seed alone, together."""
    found: dict[tuple[Any, ...], list[RunPair]] = {}
    for whole, without in pairs:
        found.setdefault(_others(without)[:-1], []).append((whole, without))
    return list(found.values())


def _rows(store: ArtifactStore, part: str, pairs: Sequence[RunPair], benchmark: str) -> list[dict[str, Any]]:
    """Return the rows of all seeds together, where there are several, and then those of each."""
    rows = []
    if len(pairs) > 1:
        a, b = ([_scored(pair[side], benchmark) for pair in pairs] for side in (0, 1))
        settings = {**_settings(pairs[0][1]), "seed": None, "seeds": len(pairs)}
        rows += _told(part, settings, benchmark, partial(compare_seeds_of, store, a, b, benchmark))
    for whole, without in pairs:
        one, other = _scored(whole, benchmark), _scored(without, benchmark)
        settings = {**_settings(without), "seeds": 1}
        rows += _told(part, settings, benchmark, partial(compare_runs, store, one, other, benchmark))
    return rows


def _told(
    part: str, settings: Mapping[str, Any], benchmark: str, compare: Callable[[], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    named = {"part": part, **settings, "benchmark": benchmark}
    try:
        found = compare()
    except UserError as error:
        nothing = dict.fromkeys(("earns", *FIGURES))
        return [{**named, "figure": OVERALL, **nothing, "verdict": f"not comparable: {error}"}]
    figures = {OVERALL: found, **found["sections"], **found["subsets"]}
    return [
        {
            **named,
            "figure": name,
            "earns": figure["difference"],
            **{key: figure[key] for key in FIGURES},
            "verdict": VERDICTS[figure["verdict"]],
        }
        for name, figure in figures.items()
    ]


def _scored(run: Run, benchmark: str) -> ScoredCheckpoint:
    assert run.scores is not None, "only runs with scores are compared"
    return ScoredCheckpoint(run.checkpoint or "", {benchmark: run.scores})


def _settings(run: Run) -> dict[str, Any]:
    return {name: run.settings.get(name) for name in OTHER_SETTINGS}


def _others(run: Run) -> tuple[Any, ...]:
    """Return all settings but the data, the seed last."""
    return tuple(_settings(run).values())
