"""``<recipe>_scores``: a checkpoint on the mixture's test split and on benchmarks, each with its interval."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from rm_workflow.artifacts import Artifact, Built
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.mixtures import raw_folders
from rm_workflow.assets.overlaps import verdicts
from rm_workflow.assets.publishing import (
    Events,
    Metadata,
    Workplace,
    checkpoint_link,
    define_asset,
    image,
    publish,
    table,
)
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.evaluation.checkpoint_scores import checkpoint_of
from rm_workflow.pages import addresses
from rm_workflow.reporting import plots
from rm_workflow.reporting.words import with_interval
from rm_workflow.training import launchers

CHECKS = (
    ("no_score_is_missing_or_nan", "Every item has a finite score."),
    ("rows_expected_equal_rows_scored", "As many items were scored as the test split and the benchmarks hold."),
)


def scores_asset(catalog: Catalog, of: Recipe) -> dg.AssetsDefinition:
    """Define the scores of one recipe's checkpoint."""

    def body(context: dg.AssetExecutionContext, workplace: Workplace) -> Events:
        from rm_workflow.models.reward_model import resolve_device, resolve_precision

        recipe = workplace.asked(of, context)
        planned = workplace.flow.scores(recipe)
        inputs = planned.inputs(workplace.store)
        device = resolve_device(workplace.settings.device)
        resolved = {"device": device, "precision": resolve_precision(recipe.evaluation.precision, device)}
        request = planned.request(tuple(inputs.values()), workplace.overridden, resolved=resolved)
        benchmarks = {
            upstream.name: inputs[upstream.asset].folder for upstream in planned.upstream_of_kind("benchmark")
        }

        def build(out: Path) -> Built:
            from rm_workflow.evaluation.contamination import leaked_items, with_verdicts
            from rm_workflow.evaluation.scores import build_scores

            checkpoint, tokens, overlap, mixture = (inputs[upstream.asset] for upstream in planned.upstream[:4])
            model = checkpoint.folder / "model"
            raws = raw_folders(workplace, mixture)
            work = workplace.store.work_folder(request.asset, request.version)
            leaked = leaked_items(overlap.folder, tokens.folder)
            map_batches = launchers.get(workplace.settings.launcher).mapper()
            built = build_scores(
                model, tokens.folder, raws, benchmarks, recipe.evaluation, device, out, None, work, leaked, map_batches
            )
            return with_verdicts(built, verdicts(overlap), leaked, benchmarks, out)

        yield from publish(context, workplace, request, build, describe_scores)
        workplace.store.clear_work(request.asset, request.version)

    flow = Flow(catalog)
    return define_asset(
        flow.across_runs(of, flow.scores),
        catalog,
        body,
        group=of.name,
        kinds={"pytorch", "parquet"},
        description=(
            f"Scores with 95 % intervals on {', '.join(f'`{name}`' for name in of.evaluation.evaluate_on)}. "
            f"[Runs, and the rows behind each score]({addresses.recipe(of.name)})"
        ),
        checks=CHECKS,
        partitions=sweeps.partition_keys(of),
    )


NULLS = ("pick_longer", "pick_shorter", "prompt_ablated")
COLUMNS = ("score", "n", "ci_low", "ci_high", "ties", *NULLS, "contamination")
CHANGE = ("mean_change", "ci_low", "ci_high", "num_changed")
SHARES = ("rises", "rejected_wins_before", "rejected_wins_after", "accuracy_before", "accuracy_after")
ANALYSIS_TABLES = {
    "calibration": ("ece", "brier", "nll", "temperature", "ece_before_temperature", "ece_after_temperature"),
    "length": ("chosen_longer", "chosen_shorter", "spearman_margin_length", "spearman_reward_length"),
}


def score_rows(facts: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return one row a benchmark, one a source of the test split, and one for all items where some leaked."""
    rows = []
    for benchmark, result in facts["scores"].items():
        nulls = facts.get("analysis", {}).get(benchmark, {})
        # The nulls of the test split stand in its result, for each source too.
        shown = {benchmark: {**{key: nulls.get(key) for key in NULLS}, **result}}
        if "all_items" in result and result["n"] == result["all_items"]["n"]:
            shown[benchmark]["contamination"] = "leaky, and of all items: there is no score without those that leaked"
        elif "all_items" in result:
            shown[benchmark]["contamination"] = f"leaky, without {result['leaked_items']:,} of the items"
            shown[f"{benchmark}, with leaked items"] = result["all_items"]
        shown |= {f"{benchmark}: {part}": value for part, value in (result.get("per_source") or {}).items()}
        rows += [{"benchmark": name, **{key: value.get(key) for key in COLUMNS}} for name, value in shown.items()]
    return rows


def analysis_rows(facts: Mapping[str, Any], columns: Sequence[str]) -> list[dict[str, object]]:
    """Return one row for each benchmark whose analysis has one of the columns."""
    found = {name: {key: part.get(key) for key in columns} for name, part in facts.get("analysis", {}).items()}
    return [
        {"benchmark": name, **part} for name, part in found.items() if any(value is not None for value in part.values())
    ]


def probe_rows(facts: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return one row for each rewrite of replies that was scored: how the rewards changed."""
    return [
        {"rewrite": name, "good_model": found["expected"], **{key: found[key] for key in CHANGE}}
        for name, found in _rewrites(facts).items()
    ]


def probe_share_rows(facts: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return one row for each rewrite of replies that was scored: shares of replies or pairs, before it and after."""
    return [
        {"rewrite": name, **{key: _share(found, key) for key in SHARES}} for name, found in _rewrites(facts).items()
    ]


def _rewrites(facts: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = facts.get("probes", {}).get("rewrites", {})
    return found


def _share(found: Mapping[str, Any], key: str) -> str:
    """Return a share with its interval and number of items; scores of an older version have neither."""
    if found[key] is None:
        return ""
    low, high = found.get(f"{key}_interval") or (None, None)
    return with_interval({"score": found[key], "ci_low": low, "ci_high": high, "n": found.get(f"{key}_n")})


def describe_scores(artifact: Artifact) -> Metadata:
    """Return what the page of scores shows: each score with its interval and verdict first."""
    facts = artifact.facts
    rows = score_rows(facts)
    scored = [row for row in rows if row["score"] is not None]
    points = [tuple(row[key] for key in ("benchmark", "score", "ci_low", "ci_high")) for row in scored]
    # The web UI plots numbers alone over the materializations.
    plotted = {
        f"{name}_score": float(found["score"]) for name, found in facts["scores"].items() if found["score"] is not None
    }
    return {
        **{name: f"{with_interval(found)}, {found['contamination']}" for name, found in facts["scores"].items()},
        "lineage_page": checkpoint_link(checkpoint_of(artifact)),
        "scores": table(rows),
        "plot_scores": image(plots.scores_with_intervals(points, artifact.asset), "scores"),  # type: ignore[arg-type]
        **{name: table(analysis_rows(facts, columns)) for name, columns in ANALYSIS_TABLES.items()},
        "probes": table(probe_rows(facts)),
        "probe_shares": table(probe_share_rows(facts)),
        **_plots(artifact),
        **plotted,
        "responses_per_second": facts["responses_per_second"],
    }


def _plots(artifact: Artifact) -> Metadata:
    """Return all plots: accuracy over candidates of best-of-N, and those of the test split."""
    return {**curves(artifact), **_test_plots(artifact)}


def curves(artifact: Artifact) -> Metadata:
    """Return the plot of accuracy over candidates of each benchmark that the rule best_of_n scores."""
    figures = json.loads((artifact.folder / "scores.json").read_text("utf-8"))
    return {
        f"plot_{name}_curve": image(plots.accuracy_over_n(found, f"{artifact.asset}: {name}"), name)
        for name, found in figures.items()
        if found.get("scoring") == "best_of_n"
    }


def _test_plots(artifact: Artifact) -> Metadata:
    """Return the plots of the test split: reliability, margins, and what rewritten replies do."""
    path = artifact.folder / "analysis.json"
    test = json.loads(path.read_text("utf-8")).get("test") if path.is_file() else None
    if not test:
        return {}
    calibration, margin = test["calibration"], test["margin"]
    reliability = plots.reliability(calibration["bins"], f"{artifact.asset}: ECE {calibration['ece']:.3f}")
    margins = plots.histogram(
        margin["edges"], margin["counts"], "r(chosen) - r(rejected)", f"{artifact.asset}: margins"
    )
    drawn = {"plot_reliability": image(reliability, "reliability"), "plot_margins": image(margins, "margins")}
    probed = artifact.facts["probes"]["rewrites"]
    if probed:
        drawn["plot_probe_changes"] = image(plots.reward_changes(probed, artifact.asset), "probes")
    return drawn
