"""``rmw recipes`` and ``rmw plan``: what exists and what it will cost; nothing is run."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.access import check_transfer
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import (
    is_recipe_path,
    override_recipe,
    parse_overrides,
    recipe_with_origins,
    resolve_recipe,
)
from rm_workflow.catalog.models import TEST, Catalog, Recipe
from rm_workflow.catalog.sweeps import check_overrides, runs_of
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption, RecipeArgument, run_hint
from rm_workflow.settings import Settings, load_settings, user_path
from rm_workflow.training.plan import DEVICES, GB, device_name, plan
from rm_workflow.training.sweep_plan import most, plan_of_sweep

if TYPE_CHECKING:
    from rm_workflow.training.data import PairKeys

LISTED = {"name", "extends", "base", "description"}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("recipes")(recipes_command)
    app.command("plan")(plan_command)


def recipes_command(json_: JsonOption = False) -> None:
    """List the recipes of the catalogue."""
    catalog = load_checked_catalog(load_settings(), warn=json_)
    recipes = catalog.recipes.values()
    if json_:
        print_json([recipe_summary(recipe) for recipe in recipes])
        return
    print_table("recipes", [recipe.model_dump(include=LISTED) for recipe in recipes])
    if catalog.refused:
        print_table("cannot be used", [{"name": name, "why": why} for name, why in catalog.refused.items()])


def recipe_summary(recipe: Recipe) -> dict[str, Any]:
    """Return one element of CONTRACT's ``recipes`` shape."""
    return recipe.model_dump(include={"name", "extends", "base", "objective"})


def plan_command(
    recipe: RecipeArgument,
    yaml: Annotated[bool, typer.Option("--yaml", help="The resolved recipe, each line with its file.")] = False,
    device: Annotated[str | None, typer.Option(help=f"Plan for one of: {', '.join(DEVICES)}.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change the recipe: training.learning_rate=1e-5.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Print pairs, steps, tokens, memory and hours of a recipe; nothing is run."""
    if yaml and json_:
        raise typer.BadParameter(
            "the recipe is printed as YAML or the plan as JSON; leave one out", param_hint="--yaml"
        )
    settings = load_settings()
    catalog = load_checked_catalog(settings, user_path(recipe) if is_recipe_path(recipe) else None, recipe)
    overrides = parse_overrides(set_ or [])
    if yaml:
        typer.echo(recipe_with_origins(settings, recipe, overrides), nl=False)
        return
    resolved = override_recipe(resolve_recipe(catalog, recipe), overrides, catalog)
    check_overrides(resolved, overrides)
    check_transfer(resolved, catalog, settings)
    runs = runs_of(resolved) or {resolved.name: resolved}
    plans = {key: _planned(run, catalog, settings, device) for key, run in runs.items()}
    planned = plan_of_sweep(plans) if resolved.sweep else plans[resolved.name]
    if json_:
        print_json(planned)
    else:
        _print_plan(planned, resolved, run_hint(recipe, set_ or [], "mixture"))


def _planned(recipe: Recipe, catalog: Catalog, settings: Settings, device: str | None) -> dict[str, Any]:
    counted, keys = counted_pairs(recipe, catalog, settings), pair_keys(recipe, catalog, settings)
    planned = plan(recipe, catalog, settings, counted, device, keys, counted_tokens(recipe, catalog, settings))
    if planned["device_memory_gb"] is None:
        planned["device_memory_gb"] = machine_memory_gb()
    return {
        **planned,
        "num_test_pairs": counted_test_pairs(recipe, catalog, settings),
        "scoring_hours": measured_scoring_hours(recipe, catalog, settings, planned["device"]),
    }


def counted_pairs(recipe: Recipe, catalog: Catalog, settings: Settings) -> int | None:
    """Return the train pairs of an epoch of this very recipe that were counted already: of its tokens, else mixture."""
    flow, store = Flow(catalog), ArtifactStore(settings.home)
    for planned in (flow.tokens(recipe), flow.mixture(recipe)):
        artifact = planned.latest(store)
        if artifact:
            # A mixture counts responses, and only tokens tell how many prompts they rank.
            unit = "train_prompts_per_epoch" if recipe.training.batch_unit == "prompts" else "train_per_epoch"
            return artifact.facts.get(unit)
    return None


def counted_test_pairs(recipe: Recipe, catalog: Catalog, settings: Settings) -> int | None:
    """Return the pairs of the recipe's own test split that will be scored, None where they are not counted yet."""
    if TEST not in recipe.evaluation.evaluate_on:
        return 0
    flow, store = Flow(catalog), ArtifactStore(settings.home)
    made = flow.tokens(recipe).latest(store) or flow.mixture(recipe).latest(store)
    most = recipe.evaluation.max_test_pairs
    counted: int | None = made.facts.get("test") if made else None
    return counted if counted is None or most is None else min(counted, most)


def measured_scoring_hours(recipe: Recipe, catalog: Catalog, settings: Settings, device: str) -> float | None:
    """Return how long the latest scoring of the same run took on this machine's device, None where there was none.

    That a recipe's training has changed since makes no difference; other benchmarks would.

    Args:
        device: a name of ``DEVICES``, for which the plan is made; of another one nothing was measured here.
    """
    planned = Flow(catalog).scores(recipe)
    latest = ArtifactStore(settings.home).latest(planned.asset, partition=planned.partition)
    if latest is None or latest.facts["num_continued"] or device != device_name(None, settings):
        return None
    kind = "cpu" if device == "cpu" else "cuda"
    then, now = latest.manifest["parameters"], recipe.evaluation
    same = then["evaluate_on"] == now.evaluate_on and then["max_test_pairs"] == now.max_test_pairs
    return latest.facts["seconds"] / 3600 if same and latest.facts["device"] == kind else None


def counted_tokens(recipe: Recipe, catalog: Catalog, settings: Settings) -> int | None:
    """Return the tokens of an epoch of this very recipe where packed blocks depend on them and they are made."""
    if recipe.training.batch_unit != "blocks":
        return None
    tokens = Flow(catalog).tokens(recipe).latest(ArtifactStore(settings.home))
    return tokens.facts.get("train_tokens") if tokens else None


def pair_keys(recipe: Recipe, catalog: Catalog, settings: Settings) -> "PairKeys | None":
    """Return the keys of this very recipe's tokenised pairs where its steps depend on them."""
    if recipe.training.grouping != "prompts":
        return None
    from rm_workflow.training.held_out import keys_for_training

    tokens = Flow(catalog).tokens(recipe).latest(ArtifactStore(settings.home))
    return keys_for_training(tokens.folder, recipe.training.validation) if tokens else None


def machine_memory_gb() -> float:
    """Return the memory of this machine in GB of 10^9 bytes, which is what a CPU computes in."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1)


def _print_plan(planned: dict[str, Any], recipe: Recipe, hint: str) -> None:
    licences = planned["licences"]
    shown = {**planned, "licences": f"commercial use: {licences['commercial_use']}"}
    by_run = shown.pop("by_run", [])
    del shown["test_problems"]  # told below the table
    if planned["annotation"] is None:
        del shown["annotation"]
    else:
        shown["annotation"] = [f"{name} {_text(number)}" for name, number in planned["annotation"].items()]
    if planned["rejection_sampling"] is None:
        del shown["rejection_sampling"]
    else:
        asked = planned["rejection_sampling"].items()
        shown["rejection_sampling"] = [f"{name} {'all' if one is None else _text(one)}" for name, one in asked]
    shown["training time"] = _time(shown.pop("hours"))
    shown["scoring time"] = _time(shown.pop("scoring_hours"))
    if planned["num_blocks"] is None:
        del shown["num_blocks"], shown["num_samples"]
    if planned["num_processes"] == 1:
        shown["strategy"] = "one process"
    if planned["memory_parts_gb"]:
        shown["memory_parts_gb"] = [f"{name} {size:g}" for name, size in planned["memory_parts_gb"].items() if size]
    print_table(f"plan of {planned['recipe']}", [{"": key, "value": _text(shown[key])} for key in shown])
    if by_run:
        print_table("each run", [_shown_run(run) for run in by_run])
    notes = [f"Licences: {licences['summary']}."]
    notes += [
        "num_tokens, memory_gb and training time are estimates; their formulas stand in rm_workflow/training/plan.py."
    ]
    if planned["scoring_hours"] is None:
        notes.append("How long scoring takes is known after the first run on such a device.")
    else:
        notes.append("Scoring time is that of the last run.")
    if planned["num_blocks"] is not None and not by_run:
        share = planned["num_samples"] * planned["epochs"] / planned["num_steps"]
        notes.append(
            f"A step counts {planned['batch_size']:,} packed blocks of {planned['max_length']:,} tokens, about "
            f"{share:,.0f} solutions; none is cut in two."
        )
    for name, told in planned["test_problems"].items():
        notes.append(f"Of source {name} it is known that {told}.")
    if planned["num_pairs"] is None:
        notes.append(f"Pairs are not known before they are counted: {hint}")
    if recipe.training.grouping == "prompts" and planned["num_steps"] is None:
        notes.append("Steps of whole prompts are counted on the tokens, which this recipe has not made yet.")
    memory, available = most(planned["memory_gb"]), planned["device_memory_gb"]
    if memory and available and memory > available:
        one = "one" if planned["num_processes"] == 1 else "each"
        place = "in this machine's memory" if planned["device"] == "cpu" else f"on {one} {planned['device']}"
        notes.append(f"It does not fit {place}: {memory:g} GB of {available:g} GB.")
    if recipe.published.num_pairs:
        notes.append(f"Published for {recipe.published.card}: {recipe.published.num_pairs:,} pairs.")
    if recipe.published.note:
        notes.append(recipe.published.note)
    console = Console()
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)  # a command in it can be copied


def _shown_run(run: Mapping[str, Any]) -> dict[str, str]:
    times = {"training time": _time(run["hours"]), "scoring time": _time(run["scoring_hours"])}
    return {**{key: _text(value) for key, value in run.items() if key not in ("hours", "scoring_hours")}, **times}


def _time(hours: float | None) -> str:
    """Return a time in hours, or minutes below an hour."""
    if hours is None:
        return "not known"
    return f"{hours:,.3g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
