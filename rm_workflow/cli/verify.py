"""``rmw verify``: hashes what was published and names what is not as it was written."""

from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog.names import nearest
from rm_workflow.cli.output import counting_line, print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.cli.targets import existing_store
from rm_workflow.errors import UserError
from rm_workflow.proofs import fault_of_file


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("verify")(verify_command)


def verify_command(
    assets: Annotated[list[str] | None, typer.Argument(help="Assets; all of them where none is named.")] = None,
    json_: JsonOption = False,
) -> None:
    """Hash every file of the published artifacts and read every event; exit 1 where one is not as it was written."""
    store = existing_store()
    folders = sorted(store.artifacts.glob("*/*"))
    known = {folder.parent.name for folder in folders}
    for asset in assets or []:
        if asset not in known:
            raise UserError(f"asset {asset} has no artifact under RMW_HOME ({store.home}); {nearest(asset, known)}")
    asked = [folder for folder in folders if not assets or folder.parent.name in assets]
    faults: list[str] = []
    with counting_line("artifacts verified") as show:
        for number, folder in enumerate(asked, start=1):
            faults += _faults(store, folder.parent.name, folder.name)
            show(number)
    faults += store.faults_of_events()
    if json_:
        print_json({"artifacts": len(asked), "events": store.last_sequence(), "faults": faults})
    elif faults:
        print_table("not as they were written", [{"fault": fault} for fault in faults])
    else:
        typer.echo(f"{len(asked):,} artifacts and all events are as they were written")
    if faults:
        raise typer.Exit(1)


def _faults(store: ArtifactStore, asset: str, version: str) -> list[str]:
    mend = f"delete the folder artifacts/{asset}/{version} and run again"
    try:
        artifact = store.find(asset, version)
    except UserError as error:
        return [str(error)]
    if artifact is None:
        return [f"the folder artifacts/{asset}/{version} has no manifest; {mend}"]
    files: dict[str, Any] = artifact.manifest["files"]
    found = {name: fault_of_file(artifact.folder / name, entry) for name, entry in files.items()}
    return [f"artifact {artifact.id}: file {name} {fault}; {mend}" for name, fault in found.items() if fault]
