"""The runs of a sweep on the command line: ``rmw run --sweep``, ``rmw runs``, ``rmw promote``, ``rmw rollback``."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.best import runs_of_recipe
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.headless import FinishedSweep, run_sweep
from rm_workflow.assets.transfer import transfer_of_runs
from rm_workflow.catalog.loading import nearest, resolve_recipe
from rm_workflow.catalog.models import Catalog, Promotion, Recipe
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.checkpoints import IMPORTED, checkpoint_artifact
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.targets import existing_store
from rm_workflow.errors import UserError
from rm_workflow.evaluation import promotion
from rm_workflow.evaluation.attribution import earned_by_parts
from rm_workflow.evaluation.promotion import Decision, selection_told
from rm_workflow.evaluation.run_table import INTERVAL, SETTINGS, Run, flat_rows, run_rows, seed_rows
from rm_workflow.lineage.store import LineageStore
from rm_workflow.reporting.words import artifact_name
from rm_workflow.settings import Settings, load_settings

JsonOption = Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")]

# Of a time, 2026-11-22T14:49:03.
SECONDS = 19
# Settings by the names that the keys of runs have, which are short.
HEADERS = {"learning_rate": "lr", "epochs": "ep"}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("runs")(runs_command)
    app.command("promote")(promote_command)
    app.command("rollback")(rollback_command)


def made_sweep(
    settings: Settings,
    catalog: Catalog,
    recipe: Recipe,
    overrides: Mapping[str, Any],
    until: str,
    keys: Sequence[str] | None,
) -> FinishedSweep:
    """Make the runs of a sweep, all where no key is named."""
    from rm_workflow.definitions import build_definitions

    return run_sweep(settings, catalog, recipe, overrides, until, build_definitions, keys)


def print_sweep(settings: Settings, finished: FinishedSweep, quiet: bool) -> None:
    """Print the table of runs on the metric and on each other benchmark, and what is main.

    Args:
        quiet: only what failed is told.

    Raises:
        UserError: a run failed.
    """
    if finished.best and not quiet:
        _print_tables(finished.best["runs"], finished.best["seeds"])
        print_attribution(finished.best["attribution"])
        store = ArtifactStore(settings.home)
        typer.echo(f"main of {finished.recipe.name}: {_named(store, promotion.main_of(store, finished.recipe.name))}")
    if finished.failed:
        number = len(finished.failed) + len(finished.runs)
        told = "; ".join(f"{key}: {sentence}" for key, sentence in finished.failed.items())
        raise UserError(f"{len(finished.failed)} of {number} runs failed ({told}); the same command does these again")


def runs_command(
    recipe: Annotated[
        str, typer.Argument(help="A recipe with a sweep or a promotion.", autocompletion=completion.recipes)
    ],
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Only this one; may be given several times.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """List the runs of a recipe with their settings and scores, the spread of seeds, and which one is main."""
    store, _, resolved, runs = _runs(recipe)
    evaluated = resolved.evaluation.evaluate_on
    asked = [name.replace("-", "_") for name in benchmark or ()]
    for name in asked:
        if name not in evaluated:
            raise UserError(f"recipe '{resolved.name}' is not scored on {name!r}; {nearest(name, evaluated)}")
    benchmarks = asked or list(dict.fromkeys([_promotion(resolved).metric, *evaluated]))
    rows = run_rows(runs, benchmarks)
    earned = earned_by_parts(store, resolved, runs, benchmarks)
    transfer = _transfer(store, resolved, runs)
    seeds = {name: seed_rows(of_benchmark) for name, of_benchmark in rows.items()}
    main, changes = promotion.main_of(store, resolved.name), promotion.history(store, resolved.name)
    metric = _promotion(resolved).metric
    selection = selection_told(len(promotion.ranked(runs, metric)), metric)
    if json_:
        told = {"runs": rows, "seeds": seeds, "attribution": earned, "transfer": transfer, "promotions": changes}
        print_json({"recipe": resolved.name, "main": main, "selection": selection, **told})
        return
    if not changes and not any(run.scores for run in runs):
        how = f"{recipe} --sweep makes all {len(runs):,}" if resolved.sweep else f"{recipe} makes one"
        typer.echo(f"no run of {resolved.name} has scores yet; rmw run {how}")
        return
    _print_tables(rows, seeds)
    print_attribution(earned)
    print_transfer(transfer)
    if selection:
        typer.echo(selection)
    if changes:
        print_table("what was main", [_change(event) for event in changes])
    typer.echo(f"main of {resolved.name}: {_named(store, main)}")


def _transfer(store: ArtifactStore, recipe: Recipe, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what the benchmarks tell, or nothing with a warning: the table of runs is not lost with it."""
    try:
        return transfer_of_runs(store, recipe, runs)
    except UserError as error:
        typer.echo(f"warning: {error}", err=True)
        return []


def promote_command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="asset, asset@version, asset[run] or asset[run]@version.", autocompletion=completion.checkpoints
        ),
    ],
    recipe: Annotated[str | None, typer.Option(help="Its recipe, where that is a file (./my.yaml).")] = None,
    allow_leaky: Annotated[
        bool, typer.Option("--allow-leaky", help="Also where its train pairs hold texts of the metric's benchmark.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make a checkpoint main of its recipe; rmw rollback takes it back."""
    settings = load_settings()
    store = ArtifactStore(settings.home)
    artifact = checkpoint_artifact(store, checkpoint)
    if IMPORTED in artifact.facts:
        raise UserError(f"checkpoint {artifact.id} was imported and belongs to no recipe, so it is main of none")
    name = artifact.asset.removesuffix("_checkpoint")
    store, _, resolved, runs = _runs(recipe or name)
    wanted = next((run for run in runs if run.checkpoint == artifact.id), None) or _older_run(store, artifact.id, name)
    if wanted is None:
        raise UserError(
            f"checkpoint {artifact.id} has no stored scores, so nobody knows how good it is; run its recipe to "
            f"scores first: rmw run {name}"
        )
    decision = promotion.promote(store, name, _promotion(resolved), wanted, runs, allow_leaky)
    LineageStore(store).catch_up()
    _print_decision(store, name, decision, json_)


def rollback_command(
    recipe: Annotated[
        str, typer.Argument(help="A recipe whose main is to be the one before.", autocompletion=completion.recipes)
    ],
    json_: JsonOption = False,
) -> None:
    """Make the checkpoint main that was it before the present one."""
    store, _, resolved, _ = _runs(recipe)
    decision = promotion.rollback(store, resolved.name)
    LineageStore(store).catch_up()
    _print_decision(store, resolved.name, decision, json_)


def _runs(recipe: str) -> tuple[ArtifactStore, Catalog, Recipe, list[Run]]:
    settings = load_settings()
    catalog = load_checked_catalog(settings, wanted=recipe)
    resolved = resolve_recipe(catalog, recipe)
    store = existing_store()
    return store, catalog, resolved, runs_of_recipe(Flow(catalog), store, resolved)


def _older_run(store: ArtifactStore, checkpoint: str, recipe: str) -> Run | None:
    """Return a checkpoint that is no run's newest one, with its scores."""
    scores = promotion.scores_of(store, recipe, checkpoint)
    return Run(scores.manifest["partition"] or recipe, {}, scores) if scores else None


def _promotion(recipe: Recipe) -> Promotion:
    return recipe.promoting or Promotion(metric=recipe.evaluation.evaluate_on[0])


def _print_decision(store: ArtifactStore, recipe: str, decision: Decision, json_: bool) -> None:
    if json_:
        told = {"recipe": recipe, "main": decision.main, "changed": decision.is_promoted}
        print_json({**told, "event": decision.event})
        return
    typer.echo(f"main of {recipe}: {_named(store, decision.main)} ({decision.reason})")
    if decision.comparisons:
        rows = [{"benchmark": name, **found} for name, found in decision.comparisons.items()]
        print_table("candidate minus the main before it", rows)


def _print_tables(rows: Mapping[str, list[dict[str, Any]]], seeds: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, of_benchmark in rows.items():
        varied = [key for key in SETTINGS if len({row[key] for row in of_benchmark}) > 1]
        print_table(_runs_title(name, of_benchmark), [_shown(row, varied) for row in flat_rows(of_benchmark)])
        if seeds.get(name):
            print_table(f"{name}: mean over seeds, with its 95 % interval", list(map(_shown_seeds, seeds[name])))


def _runs_title(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row["n"] for row in rows if row["n"] is not None})
    told = f" (n {', '.join(f'{count:,}' for count in counts)})" if counts else ""
    return f"{benchmark}: runs with 95 % intervals over items{told}"


def _shown(row: Mapping[str, Any], varied: Sequence[str]) -> dict[str, Any]:
    """Return a run's row for a terminal: the settings that vary, the interval in one column, no name of a version."""
    left_out = (*SETTINGS, *INTERVAL, "run", "contamination", "checkpoint")
    told = row["state"] if row["contamination"] in (None, "clean") else f"{row['state']}, {row['contamination']}"
    return {
        "run": row["run"],
        **{HEADERS.get(name, name): _setting(row[name]) for name in varied},
        "score": row["score"],
        "interval": _interval(row["ci_low"], row["ci_high"]),
        **{name: value for name, value in row.items() if name not in left_out},
        "state": told,
    }


def _shown_seeds(row: Mapping[str, Any]) -> dict[str, Any]:
    settings = {HEADERS.get(name, name): _setting(row[name]) for name in SETTINGS if row.get(name) is not None}
    left_out = (*SETTINGS, "ci_low", "ci_high")
    rest = {name: value for name, value in row.items() if name not in left_out}
    return {**settings, **rest, "interval": _interval(row["ci_low"], row["ci_high"])}


def _setting(value: Any) -> Any:
    """Return a setting for a table, which gives three digits after the point; a learning rate has none there."""
    return f"{value:g}" if isinstance(value, float) else value


def _interval(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _with_interval(value: float | None, low: float | None, high: float | None) -> str | None:
    interval = _interval(low, high)
    return interval and f"{value:.3f} ({interval})"


def print_attribution(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each part of a leave-one-out sweep earns: the score with it minus the score without it."""
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        shown = [
            {key: value for key, value in row.items() if key != "benchmark" and value is not None}
            for row in rows
            if row["benchmark"] == benchmark
        ]
        print_table(f"{benchmark}: what each part of the mixture earns", shown)


def print_transfer(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how each benchmark and domain goes with best-of-n on the gold set."""
    if rows:
        gold = f"best of {rows[0]['best_of'] or 'all'} on {rows[0]['gold']}"
        title = f"correlation over runs with {gold}, with 95 % intervals"
        print_table(title, [_shown_transfer(row) for row in rows])


def _shown_transfer(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("benchmark", "figure", "n", "problems")}
    figures = {
        f"{figure} (interval)": _with_interval(row[figure], row[f"{figure}_low"], row[f"{figure}_high"])
        for figure in ("spearman", "pearson")
    }
    return {**kept, **figures, "verdict": row["verdict"]}


def _change(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "when": event["time"][:SECONDS],
        "what": event["kind"],
        "checkpoint": artifact_name(f"{event['asset']}@{event['version']}", event["partition"]),
        "why": event["reason"],
    }


def _named(store: ArtifactStore, checkpoint: str | None) -> str:
    """Return a checkpoint's id (``asset@version``) as people name it, with the run that made it."""
    if checkpoint is None:
        return "none"
    asset, _, version = checkpoint.partition("@")
    artifact = store.find(asset, version)
    return artifact_name(checkpoint, artifact.manifest["partition"] if artifact else None)
