"""``rmw recipes``, ``rmw plan`` and ``rmw sources``: what exists and what it will cost; nothing is run."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import (
    is_recipe_path,
    load_catalog,
    nearest,
    override_recipe,
    parse_overrides,
    recipe_with_origins,
    resolve_recipe,
)
from rm_workflow.catalog.models import Catalog, Recipe, Source
from rm_workflow.cli.output import counting_line, print_json, print_table
from rm_workflow.cli.run import JsonOption, run_hint
from rm_workflow.errors import UserError
from rm_workflow.settings import Settings, load_settings
from rm_workflow.training.plan import DEVICES, GB, plan

LISTED = {"name", "extends", "base", "description"}

sources_app = typer.Typer(help="Raw data sets: what exists and how it is understood.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("recipes")(recipes_command)
    app.command("plan")(plan_command)
    app.add_typer(sources_app, name="sources")


def recipes_command(json_: JsonOption = False) -> None:
    """List the recipes of the catalogue."""
    recipes = load_catalog(load_settings()).recipes
    if json_:
        print_json([recipe_summary(recipe) for recipe in recipes.values()])
        return
    print_table("recipes", [recipe.model_dump(include=LISTED) for recipe in recipes.values()])


def recipe_summary(recipe: Recipe) -> dict[str, Any]:
    """Return one element of CONTRACT's ``recipes`` shape."""
    return recipe.model_dump(include={"name", "extends", "base", "objective"})


def plan_command(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a recipe file (./my.yaml).")],
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
    overrides = parse_overrides(set_ or [])
    if yaml:
        typer.echo(recipe_with_origins(settings, recipe, overrides), nl=False)
        return
    catalog = load_catalog(settings, Path(recipe).expanduser() if is_recipe_path(recipe) else None)
    resolved = override_recipe(resolve_recipe(catalog, recipe), overrides, catalog)
    planned = plan(resolved, catalog, settings, counted_pairs(resolved, catalog, settings), device)
    if planned["device_memory_gb"] is None:
        planned["device_memory_gb"] = machine_memory_gb()
    if json_:
        print_json(planned)
    else:
        _print_plan(planned, resolved, run_hint(recipe, set_ or [], "mixture"))


def counted_pairs(recipe: Recipe, catalog: Catalog, settings: Settings) -> int | None:
    """Return the train pairs of this very recipe that were counted already: after tokenising, else of the mixture."""
    flow, store = Flow(catalog), ArtifactStore(settings.home)
    for planned in (flow.tokens(recipe), flow.mixture(recipe)):
        artifact = planned.latest(store)
        if artifact:
            return int(artifact.facts["train"])
    return None


def machine_memory_gb() -> float:
    """Return the memory of this machine in GB of 10^9 bytes, which is what a CPU computes in."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1)


def _print_plan(planned: dict[str, Any], recipe: Recipe, hint: str) -> None:
    print_table(f"plan of {planned['recipe']}", [{"": key, "value": _text(planned[key])} for key in planned])
    notes = ["num_tokens, memory_gb and hours are estimates; their formulas stand in rm_workflow/training/plan.py."]
    if planned["num_pairs"] is None:
        notes.append(f"Pairs are not known before they are counted: {hint}")
    memory, available = planned["memory_gb"], planned["device_memory_gb"]
    if memory and available and memory > available:
        place = "in this machine's memory" if planned["device"] == "cpu" else f"on one {planned['device']}"
        notes.append(f"It does not fit {place}: {memory:g} GB of {available:g} GB.")
    if recipe.published.num_pairs:
        notes.append(f"Published for {recipe.published.card}: {recipe.published.num_pairs:,} pairs.")
    if recipe.published.note:
        notes.append(recipe.published.note)
    console = Console()
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


@sources_app.command("list")
def sources_list_command(json_: JsonOption = False) -> None:
    """List the sources of the catalogue with licence and adapter."""
    sources = load_catalog(load_settings()).sources
    fields = {"hub", "licence", "adapter", "proven_on_real_rows"}
    rows = [{"name": name, **source.model_dump(include=fields)} for name, source in sources.items()]
    if json_:
        print_json(rows)
        return
    print_table("sources", [{**row, "hub": row["hub"] or sources[row["name"]].path} for row in rows])
    typer.echo("proven_on_real_rows: no = the adapter has only met generated rows in this schema.", err=True)


@sources_app.command("check")
def sources_check_command(
    name: Annotated[str, typer.Argument(help="Name of a source.")],
    num_rows: Annotated[int, typer.Option("-n", min=1, help="Rows of each file.")] = 3,
    json_: JsonOption = False,
) -> None:
    """Read all rows of a source and show what the first ones are understood as; nothing is kept.

    Ends with the sentence of the build where the build would refuse the files.
    """
    settings = load_settings()
    name, source = find_source(load_catalog(settings), name)
    check_source(name, source, settings, num_rows, json_)


def find_source(catalog: Catalog, name: str) -> tuple[str, Source]:
    """Return a source of the catalogue by its name, in which ``-`` and ``_`` are the same.

    Raises:
        UserError: there is none of this name.
    """
    plain = name.replace("-", "_")
    if plain not in catalog.sources:
        raise UserError(f"source '{name}' is not in the catalogue ({nearest(plain, catalog.sources)})")
    return plain, catalog.sources[plain]


def check_source(name: str, source: Source, settings: Settings, num_rows: int, json_: bool) -> None:
    """Print what the first rows of each file are understood as.

    Raises:
        UserError: after the print, where ``build_raw`` would refuse the files; the sentence is the build's.
    """
    from rm_workflow import hub
    from rm_workflow.preferences import raw

    files = hub.resolve_files(source, settings)
    with counting_line(f"reading the rows of {name}") as counted:
        preview = raw.preview(name, source, files, num_rows, lambda rows, _: counted(rows))
    if json_:
        print_json(preview)
    else:
        _print_preview(preview)
    if preview["refused"]:
        raise UserError(preview["refused"])


def _print_preview(preview: dict[str, Any]) -> None:
    console = Console()
    for file in preview["files"]:
        columns = ", ".join(file["columns"])
        dropped = [f"{rule} {number:,}" for rule, number in file["dropped"].items() if number]
        console.rule(f"{preview['source']}: {file['file']} ({file['split']}), read by {preview['adapter']}")
        console.print(f"columns: {columns}; sha256 {file['sha256'][:12]}", highlight=False, markup=False)
        rows = f"rows: {file['num_rows']:,}, used: {file['num_used']:,}, dropped: {', '.join(dropped) or 'none'}"
        console.print(rows, highlight=False, markup=False)
        for row in file["rows"]:
            console.print("\n".join(_preview_lines(row)), highlight=False, markup=False)


def _preview_lines(row: dict[str, Any]) -> list[str]:
    """Return one row of ``raw.preview`` as a person reads it."""
    if "rule" in row:
        detail = f" ({row['detail']})" if row["detail"] else ""
        return [f"\nrow {row['row']} dropped by {row['rule']}: {row['reason']}{detail}", f"  {row['excerpt']}"]
    turns = [f"  {message['role']}: {message['content']}" for message in row["messages"]]
    responses = [f"  -> {r['slot']}{_ratings(r['ratings'])}: {r['text']}" for r in row["responses"]]
    return [f"\nrow {row['row']}", *turns, *responses]


def _ratings(ratings: dict[str, float]) -> str:
    return f" ({', '.join(f'{name} {value:g}' for name, value in ratings.items())})" if ratings else ""
