"""``rmw export``: a mixture as flat Parquet files for other tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.catalog.models import Catalog, Recipe
from rm_workflow.catalog.names import nearest
from rm_workflow.catalog.sweeps import shared_data
from rm_workflow.cli import completion
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import existing_store, find_artifact, raw_of
from rm_workflow.errors import UserError
from rm_workflow.evaluation.progress import progress_bar
from rm_workflow.preferences import croissant, export
from rm_workflow.settings import load_settings, user_path

MIXTURE = "_mixture"
KIND = "mixture"
RAW = "raw_"
# Of a source that the catalogue has no more.
NOT_KNOWN = "not known"


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("export")(export_command)


def export_command(
    mixture: Annotated[
        str,
        typer.Argument(
            help="<recipe>_mixture, with @version if not the latest, or the recipe's name.",
            autocompletion=completion.recipes,
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder for the files; new or empty.")],
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help=f"Of the rows: {', '.join(export.FORMATS)}.")
    ] = "trl",
    margin: Annotated[
        bool, typer.Option("--margin", help="With margin = chosen_score - rejected_score, which TRL adds to its loss.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Write a mixture's pairs with their texts to train.parquet and test.parquet, with croissant.json beside them."""
    if form not in export.FORMATS:
        raise UserError(f"--format {form}: take one of {', '.join(export.FORMATS)}")
    store, catalog = existing_store(), load_catalog(load_settings())
    artifact = _mixture(store, catalog, mixture)
    folder = user_path(out)
    raw = raw_of(store, artifact)
    licences = _licences(raw, catalog)
    with progress_bar("rows") as progress:
        num_rows = export.export_mixture(
            artifact.folder,
            [found.folder for found in raw],
            folder,
            cast(export.Format, form),
            margin,
            lambda staging: croissant.write(staging, artifact, licences),
            progress,
        )
    _tell(artifact, folder, num_rows, json_)


def _mixture(store: ArtifactStore, catalog: Catalog, text: str) -> Artifact:
    """Return the mixture that a recipe, or an asset with or without a version, names."""
    named, at, version = text.partition("@")
    asset = named.replace("-", "_")
    if asset in catalog.recipes:
        asset = _only_mixture(catalog.recipes[asset])
    if (store.artifacts / asset).is_dir():
        artifact = find_artifact(store, asset + at + version)
        if artifact.kind != KIND:
            raise UserError(f"asset {asset} is no mixture but of kind {artifact.kind}; name a {MIXTURE}")
        return artifact
    recipe = next((recipe.name for recipe in catalog.recipes.values() if asset in _mixtures(recipe)), None)
    if recipe is None:
        known = [*catalog.recipes, *(path.name for path in store.artifacts.glob(f"*{MIXTURE}"))]
        raise UserError(f"there is no recipe or mixture {named!r}; {nearest(named, known)}")
    raise UserError(f"mixture {asset} was never made; make it first: rmw run {recipe} --until mixture")


def _mixtures(recipe: Recipe) -> list[str]:
    return [f"{shared.data_name}{MIXTURE}" for shared in shared_data(recipe)]


def _only_mixture(recipe: Recipe) -> str:
    found = _mixtures(recipe)
    if len(found) > 1:
        raise UserError(f"recipe {recipe.name} has {len(found)} mixtures; name one of {', '.join(found)}")
    return found[0]


def _licences(raw: Sequence[Artifact], catalog: Catalog) -> dict[str, str]:
    """Return the licence of each source, as the catalogue has it now."""
    sources = catalog.sources
    names = [artifact.asset.removeprefix(RAW) for artifact in raw]
    return {name: sources[name].licence if name in sources else NOT_KNOWN for name in names}


def _tell(artifact: Artifact, folder: Path, num_rows: dict[str, int], json_: bool) -> None:
    found: dict[str, Any] = {"mixture": artifact.id, "folder": str(folder), "rows": num_rows}
    if json_:
        print_json(found)
        return
    print_table(artifact.asset, [{"file": f"{split}.parquet", "rows": number} for split, number in num_rows.items()])
    typer.echo(f"{artifact.id} written to {folder}; datasets.load_dataset({str(folder)!r}) reads it")
