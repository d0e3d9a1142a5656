"""``rmw audit``: what a mixture teaches beside the preferences that it means to."""

from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog.loading import is_recipe_path
from rm_workflow.catalog.models import Recipe
from rm_workflow.catalog.sweeps import shared_data
from rm_workflow.cli import completion
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.cli.run import JsonOption, load_recipe, make_data
from rm_workflow.errors import UserError
from rm_workflow.preferences import audit_tables

MIXTURE = "_mixture"


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("audit")(audit_command)


def audit_command(
    mixture: Annotated[
        str,
        typer.Argument(
            help="<recipe>_mixture, the recipe's name, or a recipe file (./my.yaml).", autocompletion=completion.recipes
        ),
    ],
    no_run: Annotated[bool, typer.Option("--no-run", help="Refuse where the audit is missing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure a mixture: length bias, repeats, contradictions, overlaps, leftovers of templates, licences."""
    named = mixture if is_recipe_path(mixture) else mixture.replace("-", "_").removesuffix(MIXTURE)
    settings, catalog, recipe = load_recipe(named)
    if not no_run:
        make_data(settings, catalog, recipe, {}, "audit")
    found = {
        data.data_name: _facts(Flow(catalog), ArtifactStore(settings.home), data, mixture)
        for data in shared_data(recipe)
    }
    if json_:
        print_json({"mixtures": found} if recipe.sweep else found[recipe.name])
        return
    for name, facts in found.items():
        _print(facts, name)


def _facts(flow: Flow, store: ArtifactStore, recipe: Recipe, named: str) -> dict[str, Any]:
    planned = flow.audit(recipe)
    artifact = planned.latest(store)
    if artifact is None:
        raise UserError(f"asset {planned.asset} was never made; make it first: rmw audit {named}")
    tokens = flow.tokens(recipe).latest(store)
    return {
        "mixture": store.inputs_of(artifact)[0].id,
        **artifact.facts,
        "token_lengths": tokens.facts["histogram_by_source"] if tokens else None,
    }


def _print(facts: dict[str, Any], name: str) -> None:
    for title, rows in audit_tables.tables(facts).items():
        print_table(title, rows)
    if facts["token_lengths"]:
        print_table("tokens of prompt and reply", audit_tables.token_bins(facts["token_lengths"]))
    typer.echo(f"{name}{MIXTURE}: {facts['pairs']:,} pairs")
    for found in facts["findings"]:
        typer.echo(for_terminal(f"- {found['sentence']}"))
    if not facts["findings"]:
        typer.echo("- nothing of note")
    typer.echo(f"licences: {facts['licences']['summary']}")
    typer.echo(f"to be named: {'; '.join(facts['licences']['attributions']) or 'nobody'}")
