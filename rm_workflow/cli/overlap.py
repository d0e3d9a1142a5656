"""``rmw overlap``: which texts of a recipe's train pairs are texts of its benchmarks."""

from typing import Annotated, Any

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.assets.flow import Flow
from rm_workflow.catalog import licences
from rm_workflow.catalog.loading import parse_overrides
from rm_workflow.catalog.sweeps import shared_data
from rm_workflow.cli.output import for_terminal, print_json, print_table
from rm_workflow.cli.run import JsonOption, RecipeArgument, SetOption, load_recipe, make_data
from rm_workflow.preferences import overlap, show


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("overlap")(overlap_command)


def overlap_command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    n: Annotated[int, typer.Option("-n", min=0, help="Number of hits to show.")] = 5,
    json_: JsonOption = False,
) -> None:
    """Compare a recipe's train pairs with every benchmark that it is kept clean of or evaluated on."""
    settings, catalog, resolved = load_recipe(recipe)
    changed, made = make_data(settings, catalog, resolved, parse_overrides(set_ or []), "overlap")
    store = ArtifactStore(settings.home)
    shapes = {}
    for data in shared_data(changed):
        name = Flow(catalog).overlap(data).asset
        artifact = store.find(name, made[name].version)
        assert artifact is not None, "it was just made"
        known = licences.test_problems(data, catalog)
        mixture = store.inputs_of(artifact)[0].id
        shapes[data.data_name] = {"mixture": mixture, **artifact.facts, "test_problems": known}
        if not json_:
            _print(artifact, n)
            for source, told in known.items():
                typer.echo(f"Of source {source} it is known that {told}.")
    if json_:
        print_json({"mixtures": shapes} if changed.sweep else shapes[changed.name])


def _print(artifact: Artifact, n: int) -> None:
    found: dict[str, dict[str, Any]] = artifact.facts["benchmarks"]
    print_table(
        f"{artifact.asset}: {artifact.facts['train']:,} train pairs against each benchmark",
        [{"benchmark": name, **columns} for name, columns in found.items()],
    )
    rows = overlap.overlap_rows(artifact.folder, n) if n else []
    if rows:
        typer.echo(f"{len(rows):,} of {artifact.facts['hits']:,} hits\n\n" + for_terminal(show.as_text(rows)))
