"""``rmw card``: the model card of a checkpoint as a Hugging Face README."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rm_workflow.artifacts import Artifact, ArtifactStore
from rm_workflow.catalog.models import Catalog
from rm_workflow.checked_catalog import load_checked_catalog
from rm_workflow.cli import completion
from rm_workflow.cli.checkpoints import IMPORTED, checkpoint_artifact
from rm_workflow.cli.output import for_terminal
from rm_workflow.cli.replacing import refuse_other_than_card, refuse_other_than_picture
from rm_workflow.durable_files import replaced
from rm_workflow.errors import UserError
from rm_workflow.evaluation.promotion import selected_by
from rm_workflow.reporting.evidence import README, Evidence, about_checkpoint, chain_of, scores_of
from rm_workflow.settings import load_settings

STREAM = "-"
CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CKPT", help="An asset, asset@version or its folder.", autocompletion=completion.checkpoints
    ),
]


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("card")(card_command)


def card_command(
    checkpoint: CheckpointArgument,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="Markdown file, its plots beside it; - is stdout.")
    ] = STREAM,
) -> None:
    """Write the model card of a checkpoint: scores, fit for use, training, data, licences, how to load it."""
    from rm_workflow.reporting import model_card
    from rm_workflow.reporting.imported_card import imported_card

    settings = load_settings()
    store = ArtifactStore(settings.home)
    named = checkpoint_artifact(store, checkpoint)
    drawn: Mapping[str, bytes] = {}
    if IMPORTED in named.facts:
        text = imported_card(named, scores_of(store, named))
    else:
        evidence = evidence_of(store, load_checked_catalog(settings), named)
        text = model_card.card_text(evidence)
        drawn = {} if output == STREAM else model_card.card_plots(evidence)
    refuse_unfinished(text, named.id)
    if output == STREAM:
        sys.stdout.write(text)
        return
    file = Path(output)
    refuse_missing_folder(file)
    refuse_other_than_card(file)
    for name in drawn:
        refuse_other_than_picture(file.parent / name)
    for name, png in drawn.items():
        with replaced(file.parent / name) as draft:
            draft.write_bytes(png)
    with replaced(file) as draft:
        draft.write_text(text, "utf-8")
    beside = f", and beside it {', '.join(drawn)}" if drawn else ""
    typer.echo(f"{for_terminal(str(file))}{beside}", err=True)


def evidence_of(
    store: ArtifactStore, catalog: Catalog, checkpoint: Artifact, num_scored: int | None = None
) -> Evidence:
    """Return what is known of a checkpoint, with its newest scores.

    Raises:
        UserError: it was imported, so next to nothing is known.
    """
    if IMPORTED in checkpoint.facts:
        raise UserError(
            f"checkpoint {checkpoint.id} was imported from {checkpoint.facts[IMPORTED]}, so nothing is "
            "known of its data and training; name one that a run under RMW_HOME trained"
        )
    scores = scores_of(store, checkpoint)
    chain = chain_of(store, checkpoint, scores)
    selected = selected_by(store, checkpoint.id)
    return Evidence(checkpoint, chain, about_checkpoint(chain, catalog, store), scores, num_scored, selected)


def refuse_unfinished(text: str, name: str) -> None:
    """Refuse a card in which something was left to be filled in.

    Raises:
        UserError: names the first such place.
    """
    from rm_workflow.reporting.model_card import placeholders

    left = placeholders(text)
    if left:
        raise UserError(
            f"{README} of {name}: {left[0]!r} was left unresolved; write what it stands for, or take it out"
        )


def refuse_missing_folder(file: Path) -> None:
    """Refuse an output whose folder is not there.

    Raises:
        UserError: names it.
    """
    if not file.absolute().parent.is_dir():
        raise UserError(f"{file}: its folder does not exist; create it or name another output")
