"""``rmw push``: a checkpoint with its card to the Hugging Face hub."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rm_workflow.artifacts import ArtifactStore
from rm_workflow.catalog import licences
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli.card import CheckpointArgument, evidence_of, refuse_unfinished
from rm_workflow.cli.checkpoints import MODEL, checkpoint_artifact
from rm_workflow.cli.output import print_json, print_table
from rm_workflow.cli.run import JsonOption
from rm_workflow.errors import UserError
from rm_workflow.hub import push as hub
from rm_workflow.models.base import hub_name
from rm_workflow.reporting.evidence import README, Evidence
from rm_workflow.settings import load_settings

ADAPTER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
BASE_FIELD = "base_model_name_or_path"


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("push")(push_command)


def push_command(
    checkpoint: CheckpointArgument,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="org/name; made where it is not there.")],
    revision: Annotated[str, typer.Option(metavar="NAME", help="Branch; made where it is not there.")] = hub.MAIN,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter too, in adapter/.")] = False,
    card: Annotated[str | None, typer.Option(metavar="FILE", help="Your own README.md in place of rmw's card.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Push although the licences may forbid to pass it on.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be pushed; ask nobody.")] = False,
    json_: JsonOption = False,
) -> None:
    """Upload a checkpoint with its card in one commit, to be loaded by its name and revision."""
    hub.check_names(repository, revision)
    if sys.stderr.isatty():
        # The bars of an upload are the progress that there is; those that main switches off are of loaded models.
        os.environ.pop("TQDM_DISABLE", None)
    settings = load_settings()
    store, catalog = ArtifactStore(settings.home), load_checked_catalog(settings)
    evidence = evidence_of(store, catalog, checkpoint_artifact(store, checkpoint))
    text = _own_card(card) if card else _card(evidence, repository, revision)
    files = _files(evidence, text, with_plots=card is None, with_adapter=adapter)
    refuse_unfinished(text, evidence.checkpoint.id)
    _check_licences(evidence, yes)
    listed = {
        name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in sorted(files.items())
    }
    pushed = None if dry_run else hub.push(repository, files, _message(evidence), revision, private)
    if json_:
        print_json(_as_json(repository, revision, listed, pushed))
        return
    print_table(
        f"{evidence.checkpoint.id} to {repository}, revision {revision}",
        [{"file": name, "bytes": size} for name, size in listed.items()],
    )
    if pushed is None:
        typer.echo("dry run: nothing was pushed", err=True)
        return
    for name in pushed.removed:
        typer.echo(f"removed {name} of an earlier model", err=True)
    typer.echo(f"{pushed.url} at commit {pushed.commit}")


def _as_json(repository: str, revision: str, listed: Mapping[str, int], pushed: hub.Pushed | None) -> dict[str, Any]:
    return {
        "repository": repository,
        "revision": revision,
        "files": dict(listed),
        "commit": pushed.commit if pushed else None,
        "url": pushed.url if pushed else None,
        "removed": list(pushed.removed) if pushed else [],
    }


def _message(evidence: Evidence) -> str:
    return f"{evidence.checkpoint.asset} {evidence.checkpoint.version}"


def _card(evidence: Evidence, repository: str, revision: str) -> str:
    from rm_workflow.reporting.model_card import card_text

    return card_text(evidence, repository, revision if revision != hub.MAIN else None)


def _files(evidence: Evidence, text: str, with_plots: bool, with_adapter: bool) -> dict[str, Path | bytes]:
    """Return what is uploaded: the model at the top, its card with plots, and the adapter where it is asked for."""
    from rm_workflow.reporting.model_card import card_plots

    model = evidence.checkpoint.folder / MODEL
    return {
        **{path.name: path for path in sorted(model.iterdir()) if path.is_file()},
        **(card_plots(evidence) if with_plots else {}),
        README: text.encode(),
        **(_adapter(evidence) if with_adapter else {}),
    }


def _own_card(path: str) -> str:
    file = Path(path)
    if not file.is_file():
        raise UserError(f"--card: there is no file {path}; write one with rmw card CKPT -o {path}")
    return file.read_text("utf-8")


def _adapter(evidence: Evidence) -> dict[str, Path | bytes]:
    """Return the adapter's files; a base that is a folder of this machine is named without its place."""
    folder = evidence.checkpoint.folder / ADAPTER
    if not folder.is_dir():
        raise UserError(f"{evidence.checkpoint.id} has no adapter: all its weights were trained; leave --adapter out")
    config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
    config[BASE_FIELD] = hub_name(evidence.about["base"]) or evidence.about["base"]
    files: dict[str, Path | bytes] = {f"{ADAPTER}/{path.name}": path for path in sorted(folder.iterdir())}
    return {**files, f"{ADAPTER}/{ADAPTER_CONFIG}": (json.dumps(config, indent=2) + "\n").encode()}


def _check_licences(evidence: Evidence, yes: bool) -> None:
    reasons = licences.against_passing_on(evidence.about["licences"]["terms"])
    for reason in reasons if yes else ():
        typer.echo(f"warning: {reason}", err=True)
    if reasons and not yes:
        raise UserError(
            f"{evidence.checkpoint.id} is not pushed: {'; '.join(reasons)}; read these licences, and push with "
            "--yes if they allow it"
        )
