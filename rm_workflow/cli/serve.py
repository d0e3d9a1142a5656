"""``rmw serve``: a checkpoint over HTTP."""

import os
from typing import Annotated

import typer

from rm_workflow.cli.addresses import LOOPBACK, address, shown_address
from rm_workflow.cli.checkpoints import find_checkpoint
from rm_workflow.cli.output import warn
from rm_workflow.cli.score import (
    AggregateOption,
    BatchTokensOption,
    CheckpointArgument,
    DeterministicOption,
    PrecisionOption,
    check_aggregator,
    check_precision,
    load_scorer,
)
from rm_workflow.errors import UserError
from rm_workflow.serving.limits import Limits
from rm_workflow.serving.sockets import bound_socket

# A token on the command line could be read by every user of the machine.
TOKEN_VARIABLE = "RMW_SERVE_TOKEN"
SHORTEST_TOKEN = 16


def register(app: typer.Typer) -> None:
    """Add this group's verb."""
    app.command("serve")(serve_command)


def serve_command(
    checkpoint: CheckpointArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8420,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="IP address to listen on.")] = LOOPBACK,
    precision: PrecisionOption = "auto",
    batch_tokens: BatchTokensOption = 4096,
    deterministic: DeterministicOption = False,
    aggregate: AggregateOption = "mean",
    max_candidates: Annotated[int, typer.Option(min=1, help="Conversations in one request.")] = 1024,
    max_megabytes: Annotated[float, typer.Option(min=0.001, help="Size of one request.")] = 10.0,
    max_waiting: Annotated[int, typer.Option(min=1, help="Conversations of all requests that may wait.")] = 4096,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds in which a request is answered.")] = 60.0,
) -> None:
    """Serve rewards over HTTP: /score, /rank, /get_reward (OpenRLHF), /health, /metrics, /docs.

    SIGTERM and Ctrl-C answer what is running, then end it. With RMW_SERVE_TOKEN set, requests must bear that token.
    """
    check_precision(precision)
    check_aggregator(aggregate)
    listen = address(host)
    token = _token()
    named = find_checkpoint(checkpoint)

    limits = Limits(max_megabytes, max_candidates, timeout, max_waiting)
    with bound_socket(listen, port) as bound:
        from rm_workflow.serving.app import Served
        from rm_workflow.serving.server import serve

        if not listen.is_loopback and token is None:
            warn(f"whoever reaches {listen} can use this model; set {TOKEN_VARIABLE} to ask for a token")
        scorer = load_scorer(checkpoint, precision, batch_tokens, deterministic)
        url = f"http://{shown_address(listen)}:{bound.getsockname()[1]}"
        served = Served(scorer, named.shown(digits=None), named.folder, aggregate, limits, token)
        ready = f"serving {named.shown()} in {scorer.precision} on {scorer.device}: {url} (docs: {url}/docs)"
        serve(served, bound, lambda: typer.echo(ready, err=True))
    typer.echo("stopped", err=True)


def _token() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN_VARIABLE} must be at least {SHORTEST_TOKEN} printable ASCII characters without spaces; make one "
            "with: openssl rand -hex 24"
        )
    return token
