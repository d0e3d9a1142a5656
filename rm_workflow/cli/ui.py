"""``rmw ui``: the Dagster web UI with its daemon, on the project's own DAGSTER_HOME."""

import os
from typing import Annotated

import typer

from rm_workflow.artifacts import ArtifactStore, prepare_home
from rm_workflow.assets import web_ui
from rm_workflow.assets.failures import record_dead_runs
from rm_workflow.assets.instance import open_instance
from rm_workflow.cli.addresses import LOOPBACK, address, shown_address
from rm_workflow.pages import addresses
from rm_workflow.serving.sockets import refuse_port_in_use
from rm_workflow.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("ui")(ui_command)


def ui_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="IP address to listen on; it has no login.")] = LOOPBACK,
) -> None:
    """Start the web UI with schedules, on loopback alone unless --host says otherwise: it has no login.

    It obeys its own pages and programs; what another page in a browser sends it (Host, Origin) is refused.
    """
    listen_on = address(host)
    refuse_port_in_use(listen_on, port)  # Dagster would say so in pages, after its daemon has begun
    settings = load_settings()
    prepare_home(settings.home)
    with open_instance(settings) as instance:
        record_dead_runs(instance, ArtifactStore(settings.home))
    listen = ["-h", str(listen_on), "-p", str(port)]
    arguments = ["-m", "rm_workflow.definitions", *listen]
    if settings.project and (settings.project / "workspace.yaml").exists():
        os.chdir(settings.project)
        arguments = ["-w", "workspace.yaml", *listen]
    if not listen_on.is_loopback:
        typer.echo(
            f"warning: the web UI has no login: whoever reaches {listen_on} port {port} can run code here as you, read "
            "all data and delete it; let no network reach it that you do not trust",
            err=True,
        )
    shown = f"http://{shown_address(listen_on)}:{port}"
    started = f"answers in some seconds; home: {settings.home}; Ctrl-C ends it"
    typer.echo(f"web UI: {shown}{addresses.START}  ({started})", err=True)
    typer.echo(f"assets, jobs and schedules in Dagster: {shown}/assets", err=True)
    web_ui.serve(arguments)
