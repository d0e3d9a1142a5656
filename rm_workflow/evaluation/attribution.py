"""What each part of a mixture earns or costs: the run on all parts against the runs without one of them.

Leave-one-out at the level of sources, as the data ablations of reward models are done (for instance arXiv 2410.18451).
Two runs of the same settings and seed are compared on the same items; the interval tells how far other items would move
the difference, and not how far another seed would: with several seeds there is a row for each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.sweeps import ALL
from rm_workflow.errors import UserError
from rm_workflow.evaluation.checkpoint_scores import ScoredCheckpoint
from rm_workflow.evaluation.compare import A_BETTER, B_BETTER, NEITHER
from rm_workflow.evaluation.run_comparison import compare_runs
from rm_workflow.evaluation.run_table import SETTINGS, Run

EARNS, COSTS = "earns", "costs"
VERDICTS = {A_BETTER: EARNS, B_BETTER: COSTS, NEITHER: NEITHER}
OVERALL = "overall"
FIGURES = ("ci_low", "ci_high", "p_value", "n")
OTHER_SETTINGS = tuple(name for name in SETTINGS if name != "data")


def attribution_rows(
    store: ArtifactStore, runs: Sequence[Run], left_out: Mapping[str, str], benchmarks: Iterable[str]
) -> list[dict[str, Any]]:
    """Return a row for each part that is left out, benchmark and figure of it: what the part ``earns``.

    Args:
        runs: of a leave-one-out sweep, with or without scores.
        left_out: name of the data -> part that it lacks.
        benchmarks: that the runs were scored on.

    Returns:
        ``part``, the settings of both runs, ``benchmark``, ``figure`` (``overall``, a section or a subset), ``earns``
        (score with the part minus score without it) with ``ci_low``, ``ci_high``, ``p_value`` (Holm within the sections
        and subsets of a benchmark), ``n`` and ``verdict``.
    """
    with_all = {_others(run): run for run in runs if run.settings.get("data") == ALL and run.scores}
    rows = []
    for run in runs:
        whole = with_all.get(_others(run))
        part = left_out.get(str(run.settings.get("data")))
        if part is None or whole is None or run.scores is None:
            continue
        for benchmark in benchmarks:
            rows += _rows(store, part, whole, run, benchmark)
    return rows


def _rows(store: ArtifactStore, part: str, whole: Run, without: Run, benchmark: str) -> list[dict[str, Any]]:
    try:
        found = compare_runs(store, _scored(whole, benchmark), _scored(without, benchmark), benchmark)
    except UserError:  # mixtures of other parts have other test splits
        return []
    figures = {OVERALL: found, **found["sections"], **found["subsets"]}
    settings = {name: without.settings.get(name) for name in OTHER_SETTINGS}
    return [
        {
            "part": part,
            **settings,
            "benchmark": benchmark,
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


def _others(run: Run) -> tuple[Any, ...]:
    return tuple(run.settings.get(name) for name in OTHER_SETTINGS)
