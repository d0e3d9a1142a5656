"""``rmw export``: a mixture as flat Parquet files for other tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import existing_store, find_artifact, raw_of, split_partition
from rm_workflow.errors import UserError
from rm_workflow.evaluation.progress import progress_bar
from rm_workflow.preferences import croissant, export
from rm_workflow.settings import load_settings, user_path

MIXTURE = "_mixture"
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
    store = existing_store()
    artifact = _mixture(store, mixture)
    folder = user_path(out)
    raw = raw_of(store, artifact)
    with progress_bar("rows") as progress:
        num_rows = export.export_mixture(
            artifact.folder, [found.folder for found in raw], folder, cast(export.Format, form), margin, progress
        )
    croissant.write(folder, artifact, _licences(raw))
    _tell(artifact, folder, num_rows, json_)


def _mixture(store: ArtifactStore, text: str) -> Artifact:
    named, at, version = text.replace("-", "_").partition("@")
    asset, partition = split_partition(named)
    if not asset.endswith(MIXTURE):
        asset += MIXTURE
    if not (store.artifacts / asset).is_dir():
        recipe = asset.removesuffix(MIXTURE)
        raise UserError(f"mixture {asset} was never made; make it first: rmw run {recipe} --until mixture")
    return find_artifact(store, asset + (f"[{partition}]" if partition else "") + at + version)


def _licences(raw: Sequence[Artifact]) -> dict[str, str]:
    """Return the licence of each source, as the catalogue has it now."""
    sources = load_catalog(load_settings()).sources
    names = [artifact.asset.removeprefix(RAW) for artifact in raw]
    return {name: sources[name].licence if name in sources else NOT_KNOWN for name in names}


def _tell(artifact: Artifact, folder: Path, num_rows: dict[str, int], json_: bool) -> None:
    found: dict[str, Any] = {"mixture": artifact.id, "folder": str(folder), "rows": num_rows}
    if json_:
        print_json(found)
        return
    print_table(artifact.asset, [{"file": f"{split}.parquet", "rows": number} for split, number in num_rows.items()])
    typer.echo(f"{artifact.id} written to {folder}; datasets.load_dataset({str(folder)!r}) reads it")
