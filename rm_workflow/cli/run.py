"""``rmw run`` and ``rmw counts``: materialize a recipe headless, and the funnel of its data."""

import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.flow import Flow
from rm_workflow.assets.headless import STAGES, FinishedRun, RanAsset, kinds_until, run_recipe, stage_artifacts
from rm_workflow.catalog import sweeps
from rm_workflow.catalog.loading import parse_overrides, resolve_recipe
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.output import fits, print_json, print_table, print_words
from rm_workflow.cli.score_tables import print_scores
from rm_workflow.cli.sweep import made_sweep, print_sweep
from rm_workflow.errors import UserError
from rm_workflow.preferences import counts
from rm_workflow.settings import Settings, load_settings

RecipeArgument = Annotated[
    str, typer.Argument(help="Name of a recipe, or a recipe file (./my.yaml).", autocompletion=completion.recipes)
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change the recipe for this run: training.learning_rate=1e-5.")
]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("run")(run_command)
    app.command("counts")(counts_command)


def run_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    until: Annotated[str, typer.Option(help=f"Last stage to make: {', '.join(STAGES)}.")] = "card",
    sweep: Annotated[
        bool, typer.Option("--sweep", help="All runs of the recipe's sweep, and the table of them.")
    ] = False,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only this run of the sweep; may be given several times.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Materialize a recipe from raw rows to scores and card; whatever is there already is reused.

    Of a recipe with a sweep this is its first run; --sweep makes all.
    """
    if until not in STAGES:
        raise typer.BadParameter(f"{until!r} is not a stage; choose one of {', '.join(STAGES)}", param_hint="--until")
    settings, catalog, resolved = load_recipe(recipe)
    if resolved.sweep:
        _run_sweep(settings, catalog, resolved, parse_overrides(set_ or []), until, key, sweep, json_)
        return
    if sweep or key:
        raise UserError(f"recipe '{resolved.name}' has no sweep; give it one (sweep: {{seed: [0, 1]}}) or leave it out")
    finished = materialize(settings, catalog, resolved, parse_overrides(set_ or []), until)
    facts = _score_facts(settings, finished)
    if json_:
        print_json(_run_json(finished, facts))
        return
    print_counts(collect_counts(settings, catalog, finished.recipe, recipe, until))
    if facts:
        print_scores(finished.recipe.name, facts)
        _print_comparability(finished.recipe)
    _print_chosen(settings, finished)
    reused = sum(asset.reused for asset in finished.assets.values())
    typer.echo(f"{len(finished.assets)} assets, {reused} of them reused; home: {settings.home}", err=True)


def _print_chosen(settings: Settings, finished: FinishedRun) -> None:
    """Tell where the data of rejection sampling lie, which is what a person does next with them."""
    asset = f"{finished.recipe.name}_sft_dpo"
    ran = finished.assets.get(asset)
    made = ArtifactStore(settings.home).find(asset, ran.version) if ran else None
    if made:
        sft, dpo = made.facts["sft"], made.facts["dpo"]
        typer.echo(f"for TRL: sft.parquet ({sft:,} rows), dpo.parquet ({dpo:,} rows) in {made.folder}", err=True)


def _run_sweep(
    settings: Settings,
    catalog: Catalog,
    recipe: Recipe,
    overrides: dict[str, Any],
    until: str,
    keys: list[str] | None,
    all_runs: bool,
    json_: bool,
) -> None:
    """Make all runs, those named, or the first, and print them."""
    runs = list(sweeps.runs_of(recipe))
    first = None if all_runs else runs[:1]
    finished = made_sweep(settings, catalog, recipe, overrides, until, keys or first)
    shapes = {key: _run_json(run, _score_facts(settings, run)) for key, run in finished.runs.items()}
    if json_ and (all_runs or keys):
        print_json({"recipe": recipe.name, "runs": shapes, "failed": dict(finished.failed)})
    elif json_:
        print_json(
            next(iter(shapes.values()), {"recipe": recipe.name, "assets": {}, "checkpoint": None, "scores": None})
        )
    else:
        print_counts(collect_counts(settings, catalog, finished.recipe, recipe.name, until))
    if not (all_runs or keys) and len(runs) > 1:
        typer.echo(f"this was {runs[0]}, the first of {len(runs):,} runs; --sweep makes all", err=True)
    print_sweep(settings, finished, quiet=json_)


def counts_command(
    recipe: RecipeArgument,
    no_run: Annotated[bool, typer.Option("--no-run", help="Refuse where the data is missing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Print the funnel of a recipe's data: what was read, what each rule dropped, what is left."""
    settings, catalog, resolved = load_recipe(recipe)
    if not no_run:
        make_data(settings, catalog, resolved, {}, "mixture")
    collected = collect_counts(settings, catalog, resolved, recipe)
    if json_:
        print_json(collected)
    else:
        print_counts(collected)


def load_recipe(recipe: str) -> tuple[Settings, Catalog, Recipe]:
    """Return the settings, the checked catalogue and the recipe that a name or a file means."""
    settings = load_settings()
    catalog = load_checked_catalog(settings, wanted=recipe)
    resolved = resolve_recipe(catalog, recipe)
    return settings, catalog, resolved


def materialize(
    settings: Settings, catalog: Catalog, recipe: Recipe, overrides: dict[str, Any], until: str
) -> FinishedRun:
    """Make a recipe's assets up to a stage, or to a kind beside the stages (``headless.BESIDE``)."""
    from rm_workflow.definitions import build_definitions

    return run_recipe(settings, catalog, recipe, overrides, until, build_definitions)


def make_data(
    settings: Settings, catalog: Catalog, recipe: Recipe, overrides: dict[str, Any], until: str
) -> tuple[Recipe, Mapping[str, RanAsset]]:
    """Make what a recipe, or all runs of its sweep, has before training, and return it by asset name."""
    if recipe.sweep:
        swept = made_sweep(settings, catalog, recipe, overrides, until, None)
        return swept.recipe, swept.shared
    finished = materialize(settings, catalog, recipe, overrides, until)
    return finished.recipe, finished.assets


def _score_facts(settings: Settings, finished: FinishedRun) -> Mapping[str, Any] | None:
    name = f"{finished.recipe.name}_scores"
    if name not in finished.assets:
        return None
    artifact = ArtifactStore(settings.home).find(name, finished.assets[name].version)
    assert artifact is not None
    return artifact.facts


def _run_json(finished: FinishedRun, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    checkpoint, key = f"{finished.recipe.name}_checkpoint", finished.recipe.partition
    trained = finished.assets.get(checkpoint)
    named = f"{checkpoint}[{key}]" if key else checkpoint
    return {
        "recipe": finished.recipe.name,
        "assets": {name: {"version": ran.version, "reused": ran.reused} for name, ran in finished.assets.items()},
        "checkpoint": f"{named}@{trained.version}" if trained else None,
        "scores": facts["scores"] if facts else None,
        "analysis": facts.get("analysis") if facts else None,
    }


def _print_comparability(recipe: Recipe) -> None:
    published = recipe.published
    if published.accuracy is not None:
        typer.echo(f"published accuracy {published.accuracy:.3f} ({published.card})")
    if published.note:
        typer.echo(f"note: {published.note}")


def collect_counts(
    settings: Settings, catalog: Catalog, recipe: Recipe, named: str, until: str = "mixture"
) -> dict[str, Any]:
    """Return CONTRACT's ``counts`` shape, published counts beside it, from the latest artifacts of a recipe.

    Args:
        named: what a person types for the recipe: its name or its file.
        until: stage up to which all must be there; the data stages after it are left empty.

    Raises:
        UserError: a part of the data was never made.
    """
    flow = Flow(catalog)
    of_tokens = [flow.tokens(data) for data in sweeps.shared_tokens(recipe)]
    upstream = {p.asset: p for tokens in of_tokens for p in tokens.lineage()}
    planned = [p for p in upstream.values() if p.kind in (*kinds_until("mixture"), "tokens")]
    needed = set(kinds_until(until)) & set(kinds_until("mixture"))
    made = [p for p in planned if p.kind in needed or (p.kind == "tokens" and "mixture" in needed)]
    found = stage_artifacts(made, ArtifactStore(settings.home))
    missing = [p.asset for p in made if p.asset not in found and p.kind != "tokens"]
    if missing:
        raise UserError(f"asset {missing[0]} was never made; run it first: {run_hint(named, [], 'mixture')}")

    def facts(kind: str) -> dict[str, Any]:
        return {p.name: found[p.asset].facts for p in made if p.kind == kind and p.asset in found}

    mixture = {p.asset: found[p.asset].facts for p in made if p.kind == "mixture"}
    made_tokens = {tokens.asset: found[tokens.asset].facts for tokens in of_tokens if tokens.asset in found} or None
    # Step labels by rollouts are a source of the mixture too, whose rows are solutions.
    labels = {p.asset: found[p.asset].facts for p in made if p.kind == "labels"}
    counted = counts.counts({**facts("raw"), **labels}, facts("pairs"), mixture, made_tokens)
    return counts.with_published(counted, facts("raw"), recipe, flow.mixture(recipe).asset, catalog)


def run_hint(named: str, overrides: Sequence[str], until: str) -> str:
    """Return the command that makes a recipe up to a stage, as a person types it in a shell."""
    changes = [word for text in overrides for word in ("--set", text)]
    return shlex.join(["rmw", "run", named, *changes, "--until", until])


def print_counts(collected: dict[str, Any]) -> None:
    """Print the funnel, and beside what is published what is ours."""
    steps = counts.funnel(collected)
    if fits(steps):
        print_table("funnel", steps)
    else:
        _print_folded(steps)
    for name, found in collected["mixtures"].items():
        typer.echo(f"{name}: {found['train']:,} for training, {found['test']:,} for testing")
    compared = counts.beside_published(collected)
    if compared:
        print_table("ours beside the published counts (nothing is tuned to them)", compared)


def _print_folded(steps: Sequence[Mapping[str, Any]]) -> None:
    """Print the funnel for a narrow terminal: a small table for each stage, and its idle rules in one line."""
    for (stage, name), of_stage in groupby(steps, key=lambda step: (step["stage"], step["name"])):
        came_in, *rules = of_stage
        acted = [{key: step[key] for key in ("rule", "dropped", "after")} for step in rules if step["dropped"]]
        idle = [step["rule"] for step in rules if not step["dropped"]]
        heading = f"{stage.replace('_', ' ')}: {name}, {came_in['after']:,} {came_in['rule']}"
        if acted:
            print_table(heading, acted)
        else:
            print_words(heading)
        if idle:
            print_words(f"rules that removed nothing: {', '.join(idle)}")
