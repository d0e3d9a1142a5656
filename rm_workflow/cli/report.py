"""``rmw report``: one HTML file on a checkpoint, or on the newest one of every recipe."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.models import Catalog
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.card import evidence_of, refuse_missing_folder
from rm_workflow.cli.checkpoints import IMPORTED, KIND, checkpoint_artifact
from rm_workflow.cli.output import for_terminal
from rm_workflow.cli.replacing import refuse_other_than_page
from rm_workflow.durable_files import replaced
from rm_workflow.errors import UserError
from rm_workflow.evaluation import promotion
from rm_workflow.reporting.words import artifact_name
from rm_workflow.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("report")(report_command)


def report_command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE or CKPT]", help="Without it: the newest checkpoint of each recipe, of a sweep its main."
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE.html", help="The file to write.")
    ] = "report.html",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write a report that opens without a network: scores, fit for use, curves, data, the pairs most wrong, lineage."""
    from rm_workflow.reporting.html_report import leaderboard_rows, num_scored, report

    file = Path(output)
    refuse_missing_folder(file)
    refuse_other_than_page(file)
    settings = load_settings()
    store, catalog = ArtifactStore(settings.home), load_checked_catalog(settings)
    checkpoints = _checkpoints(store, catalog, target)
    leaderboard = leaderboard_rows(store)
    found = [
        evidence_of(store, catalog, checkpoint, num_scored(leaderboard, checkpoint.asset)) for checkpoint in checkpoints
    ]
    with replaced(file) as draft:
        draft.write_text(report(found, leaderboard), "utf-8")
    names = ", ".join(artifact_name(one.checkpoint.id, one.checkpoint.manifest["partition"]) for one in found)
    typer.echo(f"{for_terminal(str(file))}: {names} ({file.stat().st_size / 1e6:.1f} MB)", err=True)
    if show:
        webbrowser.open(file.absolute().as_uri())


def _checkpoints(store: ArtifactStore, catalog: Catalog, target: str | None) -> list[Artifact]:
    if target in catalog.recipes and not Path(target).is_dir():
        of_recipe = _of_recipe(store, target)
        return [of_recipe or checkpoint_artifact(store, f"{target}_{KIND}")]
    if target is not None:
        return [checkpoint_artifact(store, target)]
    recipes = sorted(path.name.removesuffix(f"_{KIND}") for path in store.artifacts.glob(f"*_{KIND}"))
    newest = filter(None, (_of_recipe(store, recipe) for recipe in recipes))
    found = [artifact for artifact in newest if IMPORTED not in artifact.facts]
    if not found:
        raise UserError(f"there is no trained checkpoint under RMW_HOME ({store.home}); make one: rmw run quickstart")
    return found


def _of_recipe(store: ArtifactStore, recipe: str) -> Artifact | None:
    """Return the newest checkpoint of a recipe; of a sweep's runs the one that is main, else the newest one."""
    asset = f"{recipe}_{KIND}"
    newest = store.latest(asset)
    if newest:
        return newest
    main = promotion.main_of(store, recipe)
    runs = [event for event in store.events(asset=asset, kinds=("publish", "reuse")) if not event["overridden"]]
    version = main.partition("@")[2] if main else runs[-1]["version"] if runs else None
    return store.find(asset, version) if version else None
