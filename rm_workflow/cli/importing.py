"""``rmw import``: a reward model that was made elsewhere as a checkpoint under RMW_HOME."""

import re
import uuid
from typing import Annotated

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore, Request, prepare_home
from rm_workflow.catalog.loading import load_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.checkpoints import HUB, KIND, MODEL, NamedCheckpoint, find_checkpoint
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.code_versions import CODE_VERSIONS
from rm_workflow.errors import UserError
from rm_workflow.keys import content_id
from rm_workflow.settings import Settings, load_settings

NAME = re.compile(r"[a-z][a-z0-9_]*")
SHOWN = ("imported_from", "base", "objective", "token_recipe_origin")


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("import")(import_command)


def import_command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A folder with a saved reward model or a LoRA adapter of one, or hub:org/name[@revision].",
            autocompletion=completion.checkpoints,
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="It becomes the checkpoint NAME_checkpoint.")],
    json_: JsonOption = False,
) -> None:
    """Take an existing reward model as a checkpoint: copied, hashed, with a token recipe, in the lineage."""
    settings = load_settings()
    asset = _asset(name, settings)
    named = find_checkpoint(path)
    is_here = named.folder.resolve().is_relative_to(ArtifactStore(settings.home).artifacts.resolve())
    if named.artifact is not None or is_here:
        raise UserError(f"{path} is a checkpoint under RMW_HOME already; name a folder, or hub:org/name")
    artifact, reused = _take_over(settings, named, asset)
    if json_:
        print_json({"checkpoint": artifact.id, "reused": reused, **artifact.facts})
        return
    print_table(asset, [{"": name.replace("_", " "), "value": artifact.facts[name]} for name in SHOWN])
    typer.echo(f"{artifact.id} {'was there already' if reused else 'published'}; its name for rmw evaluate: {asset}")
    if artifact.facts["token_recipe_origin"] == "guessed":
        recipe = artifact.folder / MODEL / "token_recipe.json"
        typer.echo(f"its token recipe is guessed from the tokenizer's chat template; look at {recipe}", err=True)


def _asset(name: str, settings: Settings) -> str:
    plain = name.replace("-", "_").removesuffix(f"_{KIND}")
    if not NAME.fullmatch(plain):
        raise UserError(f"NAME {name!r}: take small letters, digits and _, a letter first")
    catalog = load_catalog(settings)
    if plain in {*catalog.recipes, *catalog.refused}:
        raise UserError(f"NAME {name!r} is a recipe, whose own checkpoint has this name; take another one")
    return f"{plain}_{KIND}"


def _take_over(settings: Settings, named: NamedCheckpoint, asset: str) -> tuple[Artifact, bool]:
    from rm_workflow.lineage.store import LineageStore
    from rm_workflow.models import importing
    from rm_workflow.models.published import published

    files = importing.model_files(named.folder, named.hub_id if named.label.startswith(HUB) else None)
    # A published token recipe goes with the name; that of any other model stands in its files.
    parameters = {
        "hub_id": named.hub_id if published(named.hub_id) else None,
        # It stands in the README, which is none of the files.
        "licence": importing.licence_of(named.folder),
    }
    prepare_home(settings.home)
    store = ArtifactStore(settings.home)
    request = Request(
        asset,
        KIND,
        CODE_VERSIONS["import"].version,
        parameters,
        external_files=files,
        requested=content_id(["import", asset]),
    )
    outcome = store.materialize(
        request,
        lambda out: importing.import_model(named.folder, named.hub_id, named.label, out),
        f"import-{uuid.uuid4()}",
    )
    LineageStore(store).catch_up()
    return outcome.artifact, outcome.reused
